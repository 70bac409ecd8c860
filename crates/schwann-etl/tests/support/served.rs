//! Our server in this process, with a handler of the test's own.

use std::net::SocketAddr;

use schwann::{Handler, Server};
use schwann_etl::{EtlServer, EtlSettings, Target};
use tokio::task::JoinHandle;

/// Serves until it is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Settings of a server that belongs to this target, and tries a direct put twice.
pub(crate) fn settings(url: &str) -> EtlSettings {
    let mut settings = EtlSettings::from(Target::parse(url).expect("an address"));
    settings.direct_put_retries = 1;
    settings
}

pub(crate) async fn serve(transform: impl Handler, settings: EtlSettings) -> Served {
    let etl = EtlServer::new(settings, transform).expect("settings that can be kept");
    serve_etl(etl).await
}

pub(crate) async fn serve_etl(etl: EtlServer) -> Served {
    serve_with(etl, EtlServer::http()).await
}

pub(crate) async fn serve_with(etl: EtlServer, http: Server) -> Served {
    let listener = Server::listen(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        http.run(listener, etl, std::future::pending()).await;
    });
    Served { address, task }
}
