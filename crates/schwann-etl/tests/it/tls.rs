//! Targets that are reached by https.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread,
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use schwann_etl::{EtlServer, EtlSettings, SetupError, Target, TlsSettings, transform};

use crate::{
    client::ask,
    served::{serve, settings},
};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

/// A target that answers every request with `secret`; to known clients only, if so told.
fn target(asks_for_certificate: bool) -> SocketAddr {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if asks_for_certificate {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test program: it waits in accept(2), or for a client that left.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut seen = Vec::new();
            let mut byte = [0];
            while !seen.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                seen.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    address
}

#[track_caller]
fn with_tls(address: SocketAddr, tls: TlsSettings) -> EtlSettings {
    let mut settings = settings(&format!("https://{address}/v1"));
    settings.tls = tls;
    settings
}

/// What a pull from the target comes to.
async fn pulled(settings: EtlSettings) -> (u16, String) {
    let etl = serve(transform::buffered(|_, data| Ok(data)), settings).await;
    let answer = ask(etl.address, "GET", "/ais%2F@%23%2Fsrc%2Fo", "", b"").await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn a_target_is_verified_unless_told_not_to_be() {
    let address = target(false);
    let known = TlsSettings { ca: Some(file("ca.pem")), ..TlsSettings::default() };
    assert_eq!(pulled(with_tls(address, known)).await, (200, "secret".to_owned()));
    let anyone = TlsSettings { skip_verify: true, ..TlsSettings::default() };
    assert_eq!(pulled(with_tls(address, anyone)).await, (200, "secret".to_owned()));
    let other = TlsSettings { ca: Some(file("client.pem")), ..TlsSettings::default() };
    let (status, text) = pulled(with_tls(address, other)).await;
    assert!(status == 502 && text.contains("certificate"), "{status} {text}");
}

#[tokio::test]
async fn a_target_that_asks_for_a_certificate_gets_ours() {
    let address = target(true);
    let ca = Some(file("ca.pem"));
    let without = TlsSettings { ca: ca.clone(), ..TlsSettings::default() };
    assert_eq!(pulled(with_tls(address, without)).await.0, 502);
    let certificate = Some((file("client.pem"), file("client.key")));
    let with = TlsSettings { ca, certificate, ..TlsSettings::default() };
    assert_eq!(pulled(with_tls(address, with)).await, (200, "secret".to_owned()));
}

#[test]
fn what_is_wrong_with_certificates_is_said_at_the_start() {
    let refused = |tls: TlsSettings| {
        let target = Target::parse("https://t/v1").unwrap();
        let mut settings = EtlSettings::from(target);
        settings.tls = tls;
        let server = EtlServer::new(settings, transform::buffered(|_, data| Ok(data)));
        match server {
            Err(SetupError::Tls(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let none = TlsSettings { ca: Some("/no/such.pem".into()), ..TlsSettings::default() };
    assert!(refused(none).contains("`/no/such.pem` has no certificates"));
    let empty = TlsSettings { ca: Some(file("server.key")), ..TlsSettings::default() };
    assert!(refused(empty).contains("server.key` has no certificates in PEM form: it has none"));
    let certificate = Some((file("client.pem"), file("client.pem")));
    let ca = Some(file("ca.pem"));
    let error = refused(TlsSettings { certificate, ca, ..TlsSettings::default() });
    assert!(error.contains("client.pem` has no private key"), "{error}");
}
