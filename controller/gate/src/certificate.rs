//! The certificate that the gate serves: made once, kept in one file with its key, known to clients by its digest.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use microagent_base::{
    Digest,
    durable::{self, DurableError},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// What people see in the certificate.
const COMMON_NAME: &str = "microagent gate";

/// Why there is no certificate to serve.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read.
    #[error("cannot read the gate's certificate {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason that the system gave.
        source: io::Error,
    },
    /// It cannot be made.
    #[error("cannot make a certificate for the gate: {0}")]
    Make(rcgen::Error),
    /// It cannot be kept.
    #[error("cannot keep the gate's certificate: {0}")]
    Keep(#[from] DurableError),
    /// What was just made does not decode. Never seen.
    #[error("the certificate that was made for the gate is no PEM of a key and a certificate")]
    Foreign,
}

/// A certificate and its key.
pub(crate) struct Serving {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Serving {
    /// What clients know it by: the SHA-256 of its DER.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }
}

/// Reads what was kept in the file, or makes it anew for these host names and addresses. A file that holds something else is replaced:
/// it can be made again, and clients learn of the new one from the Node.
pub(crate) fn keep(path: &Path, names: &[String]) -> Result<Serving, CertificateError> {
    match fs::read(path) {
        Ok(pem) => match decode(&pem) {
            Some(serving) => return Ok(serving),
            None => tracing::warn!(path = %path.display(), "the gate's certificate cannot be read; it is made anew"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(CertificateError::Read { path: path.to_owned(), source }),
    }
    let pem = make(names).map_err(CertificateError::Make)?;
    if let Some(dir) = path.parent() {
        durable::private_dir(dir)?;
    }
    durable::write(path, pem.as_bytes())?;
    decode(pem.as_bytes()).ok_or(CertificateError::Foreign)
}

fn decode(pem: &[u8]) -> Option<Serving> {
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    Some(Serving { certificate, key: PrivateKeyDer::from_pem_slice(pem).ok()? })
}

fn make(names: &[String]) -> Result<String, rcgen::Error> {
    // Clients compare the digest, so a name that no certificate can have is nothing to fail for.
    let mut params = CertificateParams::new(names.to_vec()).or_else(|_| CertificateParams::new(Vec::new()))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/gate.pem");
        let names = ["node-1".to_owned(), "10.0.0.7".to_owned()];
        let first = keep(&path, &names).unwrap().digest();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(keep(&path, &[]).unwrap().digest(), first);
    }

    #[test]
    fn what_is_no_certificate_is_made_anew_and_what_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate.pem");
        fs::write(&path, "torn").unwrap();
        let made = keep(&path, &["no host name!".to_owned()]).unwrap().digest();
        assert_eq!(keep(&path, &[]).unwrap().digest(), made);
        assert!(matches!(keep(dir.path(), &[]), Err(CertificateError::Read { .. })));
    }
}
