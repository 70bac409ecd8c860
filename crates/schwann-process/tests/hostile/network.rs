//! Talking to anybody.

use crate::{held, held_in, places};

macro_rules! tries {
    ($($name:ident: $script:literal)*) => {
        $(#[tokio::test]
        async fn $name() {
            held($script).await;
        })*
    };
}

tries! {
    connects_to_the_server: r#"
import socket
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", int(host("PORT"))), 2))
attempt("tcp6", lambda: socket.create_connection(("::1", int(host("PORT"))), 2))
"#
    connects_to_the_world: r#"
import socket
attempt("tcp", lambda: socket.create_connection(("1.1.1.1", 80), 2))
attempt("metadata", lambda: socket.create_connection(("169.254.169.254", 80), 2))
attempt("name", lambda: socket.getaddrinfo("example.com", 80))
"#
    sends_datagrams: r#"
import socket
def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        return udp.sendto(b"x", ("127.0.0.1", 53))
attempt("udp", send)
"#
    listens: r#"
import socket
attempt("tcp", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("all", lambda: socket.create_server(("0.0.0.0", 0)))
"#
    asks_the_kernel_by_netlink: r#"
import socket
attempt("route", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
attempt("audit", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9))
"#
    opens_raw_and_exotic_sockets: r#"
import socket
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("packet", lambda: socket.socket(17, socket.SOCK_RAW, 0))
attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM, 0))
attempt("alg", lambda: socket.socket(38, socket.SOCK_SEQPACKET, 0))
attempt("bluetooth", lambda: socket.socket(31, socket.SOCK_RAW, 0))
attempt("pair", lambda: socket.socketpair(socket.AF_INET, socket.SOCK_STREAM))
"#
    connects_to_an_abstract_socket_of_the_host: r#"
import socket
def connect():
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect("\0" + host("ABSTRACT"))
attempt("abstract", connect)
"#
    connects_to_a_socket_file_of_the_host: r#"
import socket
def connect(path):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(path)
attempt("socket", lambda: connect(host("SOCKET")))
attempt("docker", lambda: connect("/var/run/docker.sock"))
attempt("dbus", lambda: connect("/run/dbus/system_bus_socket"))
"#
}

/// What is denied is denied to the last bit.
#[tokio::test]
async fn asks_for_a_family_with_bits_that_are_cut_off() {
    let places = places().await;
    held_in(
        &places,
        r#"
def wide():
    done = libc.syscall(ctypes.c_long(41 if platform.machine() == "x86_64" else 198),
                        ctypes.c_long(2 | 1 << 40), ctypes.c_long(1), ctypes.c_long(0))
    if done < 0:
        raise OSError(ctypes.get_errno(), "socket")
attempt("wide", wide)
"#,
    )
    .await;
}
