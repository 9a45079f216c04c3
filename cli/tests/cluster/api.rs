//! An API server, played: it has objects at paths, lists them, and takes merge patches.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

pub(crate) struct Api {
    url: String,
    objects: Mutex<BTreeMap<String, Value>>,
    /// Each request that was answered: method, path and query, body.
    pub(crate) asked: Mutex<Vec<(String, String)>>,
}

impl Api {
    pub(crate) fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Arc::new(Self { url, objects: Mutex::default(), asked: Mutex::default() });
        let served = Arc::downgrade(&api);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(api) = served.upgrade() else { return };
                thread::spawn(move || api.serve(stream));
            }
        });
        api
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// An object, or, with a code in it, a `Status` that refuses.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        loop {
            let (mut line, mut length) = (String::new(), 0);
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if header.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let parts: Vec<&str> = line.split(' ').collect();
            let target = parts[1].to_owned();
            self.asked.lock().unwrap().push((format!("{} {target}", parts[0]), String::from_utf8(body).unwrap()));
            let (code, answer) = self.answer(target.split('?').next().unwrap());
            let text = answer.to_string();
            let head = format!(
                "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            if stream.write_all((head + &text).as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, path: &str) -> (u64, Value) {
        let objects = self.objects.lock().unwrap();
        if let Some(object) = objects.get(path) {
            return (object["code"].as_u64().unwrap_or(200), object.clone());
        }
        let items: Vec<_> = objects
            .iter()
            .filter(|(at, object)| at.rsplit_once('/').is_some_and(|(dir, _)| dir == path) && object["code"].is_null())
            .map(|(_, object)| object.clone())
            .collect();
        if path.ends_with("/workspaces") || path.ends_with("/events") {
            return (
                200,
                json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "7"}, "items": items}),
            );
        }
        (404, refusal(404, "NotFound", &format!("{path} not found")))
    }
}

pub(crate) fn refusal(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code})
}
