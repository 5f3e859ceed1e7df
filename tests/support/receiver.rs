//! What notices are told to in tests: a small web server and a small mail server on loopback, which can be out of order for a while.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// What came, and what is answered from now on.
#[derive(Default)]
struct State {
    /// Each with the status that it got: the path or the sender's commands, and the text.
    came: Mutex<Vec<(u16, String, String)>>,
    status: AtomicU16,
    refuses: AtomicU16,
}

/// A web server for notices, which also stands in for an ERP; or a mail server.
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Receiver {
    /// A web server that takes everything.
    pub fn web() -> Receiver {
        Receiver::start(200, web)
    }

    /// A mail server that takes everything.
    pub fn mail() -> Receiver {
        Receiver::start(250, mail)
    }

    fn start(status: u16, serve: fn(TcpStream, &State) -> Option<()>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        state.status.store(status, Ordering::SeqCst);
        state.refuses.store(422, Ordering::SeqCst);
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Receiver { address, state }
    }

    /// What notices are answered from now on.
    pub fn answers(&self, status: u16) {
        self.state.status.store(status, Ordering::SeqCst);
    }

    /// What orders are answered from now on; at first 422.
    pub fn answers_orders(&self, status: u16) {
        self.state.refuses.store(status, Ordering::SeqCst);
    }

    /// The notices that were taken: what came before the text, and the text.
    pub fn taken(&self) -> Vec<(String, String)> {
        let came = self.state.came.lock().unwrap();
        let taken = came.iter().filter(|(status, ..)| *status < 300);
        taken
            .map(|(_, head, text)| (head.clone(), text.clone()))
            .collect()
    }

    /// How many notices were turned away.
    pub fn turned_away(&self) -> usize {
        let came = self.state.came.lock().unwrap();
        came.iter().filter(|(status, ..)| *status >= 300).count()
    }
}

/// The next request of a connection, head and body; `None` if there is none.
pub fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

fn web(stream: TcpStream, state: &State) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (head, text) = request(&mut stream)?;
        let status = if head.starts_with("POST /orders") {
            state.refuses.load(Ordering::SeqCst)
        } else {
            let status = state.status.load(Ordering::SeqCst);
            state.came.lock().unwrap().push((status, head, text));
            status
        };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

fn mail(stream: TcpStream, state: &State) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"220 here\r\n").ok()?;
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        head.push_str(&line);
        let answer = match line.trim_end() {
            "DATA" => {
                stream.get_mut().write_all(b"354 go on\r\n").ok()?;
                let text = letter(&mut stream)?;
                let status = state.status.load(Ordering::SeqCst);
                let head = std::mem::take(&mut head);
                state.came.lock().unwrap().push((status, head, text));
                format!("{status} so\r\n")
            }
            "QUIT" => "221 bye\r\n".to_owned(),
            _ => "250 good\r\n".to_owned(),
        };
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

/// A letter up to its dot.
fn letter(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == ".\r\n" {
            return Some(text);
        }
        text.push_str(&line);
    }
}
