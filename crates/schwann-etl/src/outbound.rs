//! Requests to targets and stages.
//!
//! A connection has no task: whoever waits for its answer drives it. So nothing is read or written that nobody waits
//! for, and giving an exchange up closes its connection. Bytes go both ways at the same time, because a stage may answer
//! while it is still being fed.

mod hop_body;
mod out_body;
mod pool;
mod wire;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::Semaphore;
use tower_service::Service as _;

use self::{
    pool::Pool,
    wire::{Place, Wire, exchange},
};
use crate::{
    EtlSettings,
    failure::{boxed_chain, chain},
    tls,
};

pub(crate) use self::{
    hop_body::HopBody,
    out_body::{OutBody, Sent},
};
pub use crate::tls::TlsError;

/// An idle connection is asked whether it still lives after this long without a byte, and as often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a connection is for. Reading and delivering have a number of connections each, so that objects that are being
/// read never wait for those that wait to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Source,
    Delivery,
    /// Of a body that can be had only once: a connection that may have been closed meanwhile is not good enough.
    DeliveryOnce,
}

/// The connection failed before there was a whole answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// What can be said about it.
    pub(crate) why: String,
    /// It had been used before, so its other end may have closed it long ago.
    pub(crate) stale: bool,
}

impl Broken {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), stale: false }
    }
}

/// Where a request can be sent from.
pub(crate) struct Outbound {
    http: HttpConnector,
    https: OnceLock<Result<HttpsConnector<HttpConnector>, String>>,
    settings: EtlSettings,
    pool: Arc<Pool>,
    sources: Arc<Semaphore>,
    deliveries: Arc<Semaphore>,
}

impl Outbound {
    pub(crate) fn new(settings: &EtlSettings) -> Result<Self, TlsError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(settings.connect_timeout));
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE));
        http.set_keepalive_retries(Some(3));
        let https = OnceLock::new();
        if *settings.target.scheme() == http::uri::Scheme::HTTPS {
            // What is wrong with certificates is said at the start.
            let config = tls::client(&settings.tls)?;
            let _ = https.set(Ok(over_tls(config, http.clone())));
        }
        Ok(Self {
            http,
            https,
            pool: Arc::new(Pool::new(settings.max_idle_connections, settings.idle_expiry)),
            sources: Arc::new(Semaphore::new(settings.max_connections)),
            deliveries: Arc::new(Semaphore::new(settings.max_connections)),
            settings: settings.clone(),
        })
    }

    /// Sends a request to the host of its address, and returns when the head of the answer is there.
    ///
    /// Never sends anything of a body twice: whoever can make the request again has to do so.
    pub(crate) async fn send(
        &self,
        purpose: Use,
        mut request: Request<OutBody>,
    ) -> Result<Response<HopBody>, Broken> {
        let uri = std::mem::take(request.uri_mut());
        let Some(authority) = uri.authority().cloned() else {
            return Err(Broken::new("the address has no host"));
        };
        let secure = uri.scheme_str() == Some("https");
        *request.uri_mut() = match uri.path_and_query() {
            Some(line) => Uri::from(line.clone()),
            None => Uri::from_static("/"),
        };
        let host = HeaderValue::from_str(authority.as_str());
        let host = host.map_err(|_| Broken::new("the host cannot stand in a header"))?;
        request.headers_mut().insert(header::HOST, host);
        let room = match purpose {
            Use::Source => &self.sources,
            Use::Delivery | Use::DeliveryOnce => &self.deliveries,
        };
        let permit = Arc::clone(room).acquire_owned().await.expect("never closed");
        let sent = request.body().sent();
        let place = Place { secure, authority };
        let pool = || Arc::clone(&self.pool);
        if let Some(mut wire) = self.pool.take(&place, purpose == Use::DeliveryOnce) {
            sent.leave_by(&wire.seen);
            match exchange(&mut wire, request).await {
                Ok(answer) => return Ok(HopBody::of(answer, wire, sent, pool(), permit)),
                // Nothing of the request was looked at.
                Err((_, Some(unsent))) => request = *unsent,
                Err((why, None)) => return Err(Broken { why, stale: true }),
            }
        }
        let mut wire = self.connect(&uri, &place).await?;
        sent.leave_by(&wire.seen);
        match exchange(&mut wire, request).await {
            Ok(answer) => Ok(HopBody::of(answer, wire, sent, pool(), permit)),
            Err((why, _)) => Err(Broken { why, stale: false }),
        }
    }

    async fn connect(&self, uri: &Uri, place: &Place) -> Result<Wire, Broken> {
        let connecting = async {
            if !place.secure {
                let stream = self.http.clone().call(uri.clone()).await;
                return stream.map(MaybeHttpsStream::Http).map_err(|error| chain(&error));
            }
            let https = self.https.get_or_init(|| {
                let config = tls::client(&self.settings.tls).map_err(|error| error.to_string())?;
                Ok(over_tls(config, self.http.clone()))
            });
            let mut https = https.clone()?;
            https.call(uri.clone()).await.map_err(|error| boxed_chain(&error))
        };
        let connected = tokio::time::timeout(self.settings.connect_timeout, connecting).await;
        let stream = match connected {
            Ok(stream) => stream.map_err(Broken::new)?,
            Err(_) => {
                return Err(Broken::new(format!("{} did not answer in time", place.authority)));
            }
        };
        let begun = Wire::begin(stream, place.clone(), self.settings.stall_timeout).await;
        begun.map_err(|error| Broken::new(chain(&error)))
    }
}

fn over_tls(config: rustls::ClientConfig, http: HttpConnector) -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is held here can be torn by a panic: the transform's own are caught in its body.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
