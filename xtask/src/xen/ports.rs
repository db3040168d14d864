//! Virtio-serial ports: named byte streams between this process and dom0.
//!
//! This side listens, on sockets in the machine's working directory, before QEMU starts; QEMU connects while it
//! starts; so the streams exist before dom0 does and nobody has to try again.

use anyhow::{Context, Result};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Sockets that wait for QEMU.
#[derive(Debug)]
pub(super) struct Listeners {
    names: Vec<String>,
    paths: Vec<PathBuf>,
    streams: mpsc::Receiver<std::io::Result<UnixStream>>,
}

impl Listeners {
    /// Listens for each of `names` in `directory`.
    ///
    /// # Errors
    ///
    /// If a socket cannot be made.
    pub(super) fn new(directory: &Path, names: Vec<String>) -> Result<Self> {
        let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
        let mut listeners = Vec::new();
        for path in &paths {
            let listener = UnixListener::bind(path);
            listeners.push(listener.with_context(|| format!("cannot listen on {}", path.display()))?);
        }
        let (sender, streams) = mpsc::channel();
        std::thread::Builder::new().name("ports".into()).spawn(move || {
            for listener in listeners {
                if sender.send(listener.accept().map(|(stream, _)| stream)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { names, paths, streams })
    }

    /// QEMU's words for the ports, which are `/dev/vport0p1` and so on in dom0. QEMU runs in the directory of the sockets.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words =
            vec!["-device".into(), format!("virtio-serial-pci,max_ports={}", self.names.len() + 1)];
        for (number, name) in (1..).zip(&self.names) {
            words.extend([
                "-chardev".into(),
                format!("socket,id={name},path={name}"),
                "-device".into(),
                format!("virtserialport,nr={number},chardev={name},name={name}"),
            ]);
        }
        words
    }

    /// The streams, in the order of the names, once QEMU has connected.
    ///
    /// # Errors
    ///
    /// If QEMU does not come within the bound.
    pub(super) fn accept(self, bound: Duration) -> Result<Vec<UnixStream>> {
        let mut streams = Vec::new();
        for _ in &self.names {
            let stream = self.streams.recv_timeout(bound).context("QEMU did not connect to its ports")?;
            streams.push(stream?);
        }
        Ok(streams)
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        // The thread may still wait for a QEMU that will not come. Connections that it does not want any more
        // find the listener closed.
        for path in &self.paths {
            let _ = UnixStream::connect(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ebb-ports-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn streams_come_in_the_order_of_the_names() {
        let directory = directory("order");
        let listeners = Listeners::new(&directory, vec!["one".into(), "two".into()]).unwrap();
        assert!(listeners.words().iter().any(|word| word == "virtserialport,nr=2,chardev=two,name=two"));
        for name in ["two", "one"] {
            let mut stream = UnixStream::connect(directory.join(name)).unwrap();
            stream.write_all(name.as_bytes()).unwrap();
        }
        let streams = listeners.accept(Duration::from_secs(10)).unwrap();
        let read = |mut stream: UnixStream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(streams.into_iter().map(read).collect::<Vec<_>>(), ["one", "two"]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_qemu_that_never_comes_is_an_error() {
        let directory = directory("none");
        let listeners = Listeners::new(&directory, vec!["one".into()]).unwrap();
        assert!(listeners.accept(Duration::from_millis(1)).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
