//! The certificate authority of a cluster, and who it vouches for.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// What a client shows to say who it is.
#[derive(Debug)]
pub(super) enum Identity {
    /// A certificate and its private key, in PEM.
    Certificate { certificate: String, key: String },
    /// A bearer token.
    Token(String),
}

/// Signs the certificates of servers and users.
pub(super) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = params("microagent tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate in PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A server on the loopback address: its certificate and private key in PEM.
    pub(super) fn server(&self) -> (String, String) {
        let mut params = params("127.0.0.1");
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A user: Kubernetes takes the common name for the name, and the organisation for a group.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Identity {
        let mut params = params(user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.sign(params);
        Identity::Certificate { certificate, key }
    }

    fn sign(&self, mut params: CertificateParams) -> (String, String) {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A key to sign the tokens of service accounts with: private and public, in PEM.
pub(super) fn token_key() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (key.serialize_pem(), key.public_key_pem())
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
