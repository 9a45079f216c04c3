//! Certificates of clients: who they are, and whether the cluster's CA says so.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{prelude::FromDer, x509::X509Name};

use crate::review::{ReviewError, Reviews, User};

/// How long a CA that was read is taken for the present one.
const FRESH: Duration = Duration::from_secs(60);
/// How old it must be to be read again for a certificate that it did not sign.
const REREAD: Duration = Duration::from_secs(5);
/// The group of all who were recognised.
const AUTHENTICATED: &str = "system:authenticated";

/// Asks for a certificate in the handshake and sees to it that the client has the key. Whether the cluster's CA signed it is seen with
/// the request: then a refusal is an answer that people can read, and another CA counts from the next request on.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a certificate makes nobody a user.
#[derive(Debug)]
pub(crate) enum NoUser {
    /// It is the client's fault, for this reason.
    Refused(String),
    /// The CA cannot be learnt.
    Unknown(ReviewError),
}

/// The CA of users' certificates, as it was read last.
pub(crate) struct ClientCa {
    provider: Arc<CryptoProvider>,
    known: Mutex<Option<Known>>,
}

#[derive(Clone)]
struct Known {
    read: Instant,
    /// None when the cluster has no such CA.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl ClientCa {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, known: Mutex::new(None) }
    }

    /// The user whose certificate is first in the chain.
    pub(crate) async fn user(&self, reviews: &dyn Reviews, chain: &[CertificateDer<'_>]) -> Result<User, NoUser> {
        let refused = |why: &str| NoUser::Refused(why.to_owned());
        let (own, others) = chain.split_first().ok_or_else(|| refused("there is none"))?;
        let mut age = FRESH;
        loop {
            let known = self.known(reviews, age).await.map_err(NoUser::Unknown)?;
            let verifier =
                known.verifier.ok_or_else(|| refused("this cluster has no CA for the certificates of users"))?;
            match verifier.verify_client_cert(own, others, UnixTime::now()) {
                Ok(_) => return subject(own).map_err(NoUser::Refused),
                // It may be one of a CA that came since.
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature))
                    if known.read.elapsed() >= REREAD && age == FRESH =>
                {
                    age = REREAD;
                }
                Err(error) => return Err(NoUser::Refused(error.to_string())),
            }
        }
    }

    /// What was read less than `age` ago, now or before. When it cannot be read now, what was read before goes on to count.
    async fn known(&self, reviews: &dyn Reviews, age: Duration) -> Result<Known, ReviewError> {
        let before = self.lock().clone();
        if let Some(known) = before.as_ref().filter(|known| known.read.elapsed() < age) {
            return Ok(known.clone());
        }
        match reviews.client_ca().await {
            Ok(pem) => {
                let verifier = pem.and_then(|pem| self.verifier(&pem));
                let known = Known { read: Instant::now(), verifier };
                *self.lock() = Some(known.clone());
                Ok(known)
            }
            Err(error) => {
                tracing::warn!(%error, "the client CA cannot be read");
                before.ok_or(error)
            }
        }
    }

    fn verifier(&self, pem: &str) -> Option<Arc<dyn ClientCertVerifier>> {
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
        if ignored > 0 {
            tracing::warn!(ignored, "some certificates of the cluster's client CA cannot be used");
        }
        let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider)).build();
        built.inspect_err(|error| tracing::warn!(%error, "the cluster's client CA cannot be used")).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user that a certificate names: the common name is theirs, each organization a group (Kubernetes, "X509 client certificates").
fn subject(certificate: &CertificateDer<'_>) -> Result<User, String> {
    let unreadable = |_| "its subject cannot be read".to_owned();
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(certificate).map_err(|_| "it cannot be read".to_owned())?;
    let subject: &X509Name<'_> = certificate.subject();
    // Of several names the last counts, as it does for the API server.
    let name = subject.iter_common_name().last().ok_or("it has no common name")?.as_str().map_err(unreadable)?;
    if name.is_empty() {
        return Err("its common name is empty".to_owned());
    }
    let groups = subject.iter_organization().map(|group| group.as_str().map(str::to_owned));
    let mut groups = groups.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    Ok(User { name: name.to_owned(), groups, ..User::default() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::{BoxFuture, ready};
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use tokio_rustls::rustls::crypto::aws_lc_rs;

    use super::*;
    use crate::review::{Access, Decision};

    /// A cluster that has had its present CA for no longer than since the last look.
    struct Rotated(String, AtomicUsize);

    impl Reviews for Rotated {
        fn authenticate<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>> {
            Box::pin(ready(Ok(None)))
        }

        fn authorise<'a>(&'a self, _: &'a User, _: &'a Access) -> BoxFuture<'a, Result<Decision, ReviewError>> {
            Box::pin(ready(Ok(Decision::Allowed)))
        }

        fn client_ca(&self) -> BoxFuture<'_, Result<Option<String>, ReviewError>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Box::pin(ready(Ok(Some(self.0.clone()))))
        }
    }

    /// The PEM of a CA, and a certificate of a user that it signed.
    fn ca() -> (String, CertificateDer<'static>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let mut user = CertificateParams::new(Vec::new()).unwrap();
        user.distinguished_name.push(DnType::CommonName, "jane");
        user.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = user.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key)).unwrap();
        (pem, signed.der().clone())
    }

    #[tokio::test]
    async fn another_ca_counts_as_soon_as_a_certificate_asks_for_it() {
        let (before, now) = (ca(), ca());
        let cluster = Rotated(now.0, AtomicUsize::new(0));
        let known = ClientCa::new(Arc::new(aws_lc_rs::default_provider()));
        let verifier = known.verifier(&before.0);
        // Read just now: a stranger must not make the gate read it each time.
        *known.lock() = Some(Known { read: Instant::now(), verifier: verifier.clone() });
        assert!(matches!(known.user(&cluster, std::slice::from_ref(&now.1)).await, Err(NoUser::Refused(_))));
        assert_eq!(cluster.1.load(Ordering::Relaxed), 0);
        *known.lock() = Some(Known { read: Instant::now() - REREAD, verifier });
        assert!(known.user(&cluster, std::slice::from_ref(&before.1)).await.is_ok());
        assert_eq!(cluster.1.load(Ordering::Relaxed), 0, "what is known is enough");
        assert_eq!(known.user(&cluster, &[now.1]).await.unwrap().name, "jane");
        assert!(matches!(known.user(&cluster, &[before.1]).await, Err(NoUser::Refused(_))));
        assert_eq!(cluster.1.load(Ordering::Relaxed), 1);
    }
}
