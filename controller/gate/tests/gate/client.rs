//! A client that can do everything wrong.

use std::{io, net::SocketAddr, sync::Arc};

use microagent_base::Digest;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use crate::{DEADLINE, certificates::Identity};

pub(crate) struct Client {
    pub(crate) stream: TlsStream<TcpStream>,
    /// What was read and not yet used.
    rest: Vec<u8>,
}

/// What came for a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Checks that it is a whole `Status`, and gives its reason and message.
    pub(crate) fn status(&self) -> (String, String) {
        let status: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(
            (&status["kind"], &status["apiVersion"], &status["status"]),
            (&"Status".into(), &"v1".into(), &"Failure".into())
        );
        assert_eq!(status["code"], self.code);
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        let text = |name: &str| status[name].as_str().unwrap().to_owned();
        (text("reason"), text("message"))
    }
}

impl Client {
    /// Connects, and tells the digest of the certificate that was served.
    pub(crate) async fn connect(address: SocketAddr, identity: Option<&Identity>) -> io::Result<(Self, Digest)> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let config = match identity {
            Some(own) => config.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).unwrap(),
            None => config.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let digest = Digest::of(&stream.get_ref().1.peer_certificates().unwrap()[0]);
        Ok((Self { stream, rest: Vec::new() }, digest))
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next bytes; none at the end.
    pub(crate) async fn read(&mut self) -> io::Result<Vec<u8>> {
        if !self.rest.is_empty() {
            return Ok(std::mem::take(&mut self.rest));
        }
        let mut buffer = vec![0; 16 * 1024];
        let n = timeout(DEADLINE, self.stream.read(&mut buffer)).await.unwrap()?;
        buffer.truncate(n);
        Ok(buffer)
    }

    /// Exactly so many bytes.
    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.rest);
        while bytes.len() < count {
            let more = self.read().await.unwrap();
            assert!(!more.is_empty(), "it ended after {} of {count} bytes", bytes.len());
            bytes.extend(more);
        }
        self.rest = bytes.split_off(count);
        bytes
    }

    /// The head of the answer.
    pub(crate) async fn head(&mut self) -> (u16, String) {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let more = self.read().await.unwrap();
            assert!(!more.is_empty(), "no answer: {}", String::from_utf8_lossy(&bytes));
            bytes.extend(more);
        };
        self.rest = bytes.split_off(end);
        let head = String::from_utf8(bytes).unwrap().to_lowercase();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head)
    }

    /// One piece of a body that is sent in chunks; `None` at its proper end.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.extend(self.exactly(1).await);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        let chunk = self.exactly(size).await;
        assert_eq!(self.exactly(2).await, b"\r\n");
        (size > 0).then_some(chunk)
    }

    /// The whole answer.
    pub(crate) async fn answer(mut self) -> Answer {
        let (code, head) = self.head().await;
        let mut body = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            while let Some(chunk) = self.chunk().await {
                body.extend(chunk);
            }
        } else {
            let length = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
            body = self.exactly(length).await;
        }
        Answer { code, head, body }
    }
}

/// Whoever serves is trusted.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &default_provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &default_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
