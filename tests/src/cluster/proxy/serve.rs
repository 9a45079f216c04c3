//! Takes connections, and does with each request what is asked for.

use std::{io, net::TcpListener, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::pending};
use http_body_util::{BodyExt, BodyStream};
use hyper::{Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::client::Body as ServerBody;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{
    Asked, Desk, Fault,
    answer::{Body, broken, half, json_answer, refusal, silent, status, streamed, whole},
};

pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, desk: Arc<Desk>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, desk) = (acceptor.clone(), Arc::clone(&desk));
        connections.spawn(async move {
            let open = desk.open();
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| carry(Arc::clone(&desk), request));
            let http = http1::Builder::new().serve_connection(TokioIo::new(tls), service);
            tokio::select! {
                () = open.cancelled() => {}
                // How a client ends is its own affair, and a cut is one that was asked for.
                _ = http => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// An error cuts the connection.
async fn carry(desk: Arc<Desk>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (place, fault) = desk.note(Asked::new(request.method(), request.uri()));
    let answer = match fault {
        Some(fault) => disturbed(&desk, request, fault).await?,
        None => pass(&desk, request).await?,
    };
    desk.answered(place, answer.status().as_u16());
    Ok(answer)
}

async fn disturbed(desk: &Desk, request: Request<Incoming>, fault: Fault) -> io::Result<Response<Body>> {
    match fault {
        Fault::CutRequest => Err(broken()),
        // The answer to a watch has no end that could be waited for.
        Fault::LostReply if is_watch(&request) => Err(broken()),
        Fault::LostReply => {
            whole_answer(desk, request).await?;
            Err(broken())
        }
        Fault::CutAnswer if is_watch(&request) => {
            let answer = pass(desk, request).await?;
            let (head, body) = answer.into_parts();
            let first = BodyStream::new(body).try_next().await?.and_then(|frame| frame.into_data().ok());
            Ok(Response::from_parts(head, half(first.unwrap_or_default())))
        }
        Fault::CutAnswer => {
            let (mut head, bytes) = whole_answer(desk, request).await?;
            head.headers.remove(header::CONTENT_LENGTH);
            Ok(Response::from_parts(head, half(bytes)))
        }
        Fault::Delay(time) => {
            let answer = pass(desk, request).await;
            tokio::time::sleep(time).await;
            answer
        }
        Fault::Refuse(code, message, retry_after) => {
            // A client that is still sending would take the answer for a broken connection.
            drop(request.into_body().collect().await);
            Ok(refusal(code, message, retry_after))
        }
        Fault::ErrorEvent(code) => {
            let event = serde_json::json!({ "type": "ERROR", "object": status(code, "as the test asks for") });
            Ok(json_answer(StatusCode::OK, whole(format!("{event}\n").into())))
        }
        Fault::Silent => Ok(silent()),
        Fault::Say(text) => Ok(json_answer(StatusCode::OK, whole(text.into()))),
        Fault::Hold => {
            desk.lock().held += 1;
            pending().await
        }
        Fault::HoldReply => {
            if !is_watch(&request) {
                whole_answer(desk, request).await?;
            }
            desk.lock().held += 1;
            pending().await
        }
    }
}

fn is_watch(request: &Request<Incoming>) -> bool {
    Asked::new(request.method(), request.uri()).verb == "watch"
}

/// Passes it on, and the answer back as it comes.
async fn pass(desk: &Desk, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let answer = ask(desk, request).await?;
    let (head, body) = answer.into_parts();
    let chunks = BodyStream::new(body)
        .filter_map(|frame| async move { frame.map(|frame| frame.into_data().ok()).transpose() })
        .map_err(io::Error::other);
    Ok(Response::from_parts(head, streamed(chunks)))
}

/// Passes it on, and waits until it is carried out.
async fn whole_answer(desk: &Desk, request: Request<Incoming>) -> io::Result<(hyper::http::response::Parts, Bytes)> {
    let (head, body) = ask(desk, request).await?.into_parts();
    Ok((head, body.collect().await.map_err(io::Error::other)?.to_bytes()))
}

async fn ask(desk: &Desk, request: Request<Incoming>) -> io::Result<Response<ServerBody>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    // Who asks is the user of the proxy, and where is the server's own address.
    for name in [header::AUTHORIZATION, header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    desk.server.send(Request::from_parts(head, ServerBody::from(body))).await.map_err(io::Error::other)
}
