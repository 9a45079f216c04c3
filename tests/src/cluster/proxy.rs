//! A way to the API server on which things go wrong: what a test asks for, at the request that it names, and nothing by chance.
//!
//! TLS ends here, with a certificate of the cluster's authority. What is passed on is asked as the user of a kubeconfig, so whoever
//! comes through needs no credentials. Each request is counted, also those that nobody answers.

mod answer;
mod asked;
mod rule;
mod serve;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::sync::CancellationToken;

pub use self::{
    asked::Asked,
    rule::{Fault, Rule},
};
use super::{Cluster, Identity, kubeconfig, until};

/// See the module. Everything on it is cut when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    kubeconfig: PathBuf,
    desk: Arc<Desk>,
    runtime: Option<Runtime>,
}

/// What its connections share.
struct Desk {
    server: kube::Client,
    state: Mutex<State>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    held: usize,
    /// Cancelled, and replaced, to cut what is open.
    open: CancellationToken,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> CancellationToken {
        self.lock().open.clone()
    }

    /// Notes a request. Gives its place, and what is to go wrong with it.
    fn note(&self, asked: Asked) -> (usize, Option<Fault>) {
        let mut state = self.lock();
        let fault = state.rules.iter_mut().find_map(|rule| rule.take(&asked));
        state.asked.push(asked);
        (state.asked.len() - 1, fault)
    }

    fn answered(&self, place: usize, code: u16) {
        if let Some(asked) = self.lock().asked.get_mut(place) {
            asked.code = Some(code);
        }
    }
}

impl Cluster {
    /// A proxy before the API server, which asks as the user of this kubeconfig.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn proxy(&self, user: &Path) -> Proxy {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(async {
            let read = Kubeconfig::read_from(user).expect("a kubeconfig");
            let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            let mut config = config.expect("a kubeconfig for a client");
            // What the server says is passed on as it is.
            config.default_retry = false;
            kube::Client::try_from(config).expect("a client")
        });
        let (certificate, key) = self.authority.server();
        let acceptor = acceptor(&certificate, &key);
        let (listener, address) = listen().expect("a port");
        let desk = Arc::new(Desk { server, state: Mutex::default() });
        runtime.spawn(serve::serve(listener, acceptor, Arc::clone(&desk)));
        let identity = Identity::Token("whoever".to_owned());
        let path = self.dir.path().join(format!("proxy-{}.kubeconfig", address.port()));
        kubeconfig::write(&path, &format!("https://{address}"), self.authority.certificate(), &identity);
        Proxy { kubeconfig: path, desk, runtime: Some(runtime) }
    }
}

fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn acceptor(certificate: &str, key: &str) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Proxy {
    /// The kubeconfig that leads through it.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on this goes wrong, besides what does already. A request meets the first rule that it fits.
    pub fn rule(&self, rule: Rule) {
        self.desk.lock().rules.push(rule);
    }

    /// From now on nothing goes wrong. What is held or silent stays so until [`Proxy::cut`].
    pub fn calm(&self) {
        self.desk.lock().rules.clear();
    }

    /// Cuts every connection that is open.
    pub fn cut(&self) {
        let open = std::mem::take(&mut self.desk.lock().open);
        open.cancel();
    }

    /// All requests so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.desk.lock().asked.clone()
    }

    /// How many requests there were so far with this verb of this resource, as [`Rule::on`] takes them.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.desk.lock().asked.iter().filter(|asked| asked.is(verb, resource)).count()
    }

    /// Waits until one more request is held than were so far.
    ///
    /// # Panics
    /// When none ever is.
    pub fn wait_held(&self, before: usize) {
        until("a request is held", || self.held() > before);
    }

    /// How many requests were held so far.
    #[must_use]
    pub fn held(&self) -> usize {
        self.desk.lock().held
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
