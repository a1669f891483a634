//! The listener. Whoever asks, however often and however slowly, costs the loop one look at its state a second.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderName},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use log::{info, warn};
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::Metrics;
use crate::control::{Command, Commands, ask};

/// Clients at a time; more are turned away.
const CLIENTS: usize = 16;
/// How long a client may take, from connecting to having read all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest head of a request in bytes; hyper takes no smaller limit.
const REQUEST: usize = 8192;
/// How long an answer is repeated instead of asking the loop anew.
const FRESH: Duration = Duration::from_secs(1);
/// After an error: the port is another's, the address is not there yet, or descriptors are short.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers Prometheus at this address for ever. While it cannot, the virtual hosts are served all the same.
pub(crate) async fn serve(address: SocketAddr, metrics: Metrics, commands: Commands) {
    let listener = listen(address).await;
    info!("metrics at http://{address}/metrics");
    let desk = Arc::new(Desk { metrics, commands, last: Mutex::default() });
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                warn!("metrics: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&clients).try_acquire_owned() else { continue };
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let desk = Arc::clone(&desk);
                async move { Ok::<_, Infallible>(desk.answer(&request).await) }
            });
            let mut http = http1::Builder::new();
            http.keep_alive(false).max_buf_size(REQUEST);
            // An error is that the client has gone, is too slow, or speaks no HTTP.
            timeout(PATIENCE, http.serve_connection(TokioIo::new(client), answer)).await.ok();
            drop(place);
        });
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !is_told => warn!(
                "no metrics: cannot listen on {address} (--metrics): {error}; trying again every {} s",
                LISTEN_AGAIN.as_secs()
            ),
            Err(_) => {}
        }
        is_told = true;
        sleep(LISTEN_AGAIN).await;
    }
}

struct Desk {
    metrics: Metrics,
    commands: Commands,
    /// The last answer, and when the loop was asked for it.
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Desk {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return response(StatusCode::METHOD_NOT_ALLOWED, (ALLOW, "GET, HEAD"), "GET /metrics\n".into());
        }
        if request.uri().path() != "/metrics" {
            return response(StatusCode::NOT_FOUND, (CONTENT_TYPE, PLAIN), "the metrics are at /metrics\n".into());
        }
        match self.text().await {
            Ok(text) => response(StatusCode::OK, (CONTENT_TYPE, OPEN_METRICS), text),
            Err(error) => {
                response(StatusCode::SERVICE_UNAVAILABLE, (CONTENT_TYPE, PLAIN), format!("{error:#}\n").into())
            }
        }
    }

    /// The metrics, at most a second old. Written on another thread: with many virtual hosts it takes a while.
    async fn text(&self) -> Result<Bytes> {
        let mut last = self.last.lock().await;
        if let Some((asked, text)) = &*last
            && asked.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let asked = Instant::now();
        let status = ask(&self.commands, Command::Status).await.map_err(anyhow::Error::msg)?;
        let metrics = self.metrics.clone();
        let text = spawn_blocking(move || metrics.text(&status)).await.context("cannot write the metrics")?;
        let (_, text) = last.insert((asked, text.into()));
        Ok(text.clone())
    }
}

fn response(status: StatusCode, (name, value): (HeaderName, &'static str), body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
    response
}
