//! An object on its way from the connection to the transform, one piece at a time.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

/// A piece of an object on its way to the transform.
enum Piece {
    Data(Bytes),
    End,
}

/// Hands the pieces of one message to its transform.
pub(super) struct Feed {
    /// Nobody there: the rest is dropped.
    to: Option<mpsc::Sender<Piece>>,
    piece: Option<Piece>,
    ended: bool,
}

impl Feed {
    /// Of no message.
    pub(super) fn none() -> Self {
        Self { to: None, piece: None, ended: true }
    }

    pub(super) fn new() -> (Self, Tube) {
        let (to, from) = mpsc::channel(1);
        (Self { to: Some(to), piece: None, ended: false }, Tube { from, ended: false })
    }

    pub(super) fn is_full(&self) -> bool {
        self.piece.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended && self.piece.is_none()
    }

    pub(super) fn offer(&mut self, piece: Bytes) {
        if self.to.is_some() {
            self.piece = Some(Piece::Data(piece));
        }
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
        if self.to.is_some() {
            self.piece = Some(Piece::End);
        }
    }

    pub(super) fn discard(&mut self) {
        (self.to, self.piece) = (None, None);
    }

    /// Waits until the transform has room for the piece. Cancel-safe.
    pub(super) async fn hand_on(&mut self) {
        let Some(to) = &self.to else {
            self.piece = None;
            return;
        };
        if let Ok(room) = to.reserve().await {
            if let Some(piece) = self.piece.take() {
                room.send(piece);
            }
            return;
        }
        self.discard();
    }
}

/// The transform's end of it.
pub(super) struct Tube {
    from: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Body for Tube {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.from.poll_recv(cx).map(|piece| match piece {
            Some(Piece::Data(piece)) => Some(Ok(Frame::data(piece))),
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => {
                let why = "the connection closed within the object";
                Some(Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, why)))
            }
        })
    }
}
