use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use http::request::Parts;

/// The object that a transform is called for. Cheap to clone.
///
/// It stands in the extensions of the call's head; its bytes are the call's body.
#[derive(Clone, Debug, Default)]
pub struct Object(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    path: String,
    etl_args: String,
    file: Option<PathBuf>,
}

impl Object {
    /// The object of a call. In a call that did not come through an
    /// [`EtlServer`](crate::EtlServer), one without a name.
    pub fn of(head: &Parts) -> &Self {
        static NAMELESS: LazyLock<Object> = LazyLock::new(Object::default);
        head.extensions.get().unwrap_or(&NAMELESS)
    }

    /// An object for tests of a transform: put it into the extensions of a call's head.
    pub fn new(path: impl Into<String>, etl_args: impl Into<String>) -> Self {
        Self(Arc::new(Inner { path: path.into(), etl_args: etl_args.into(), file: None }))
    }

    pub(crate) fn with_file(path: String, etl_args: String, file: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner { path, etl_args, file }))
    }

    /// The path of the request, decoded and without a slash at its start: `BUCKET/OBJECT` when the target pushes,
    /// `PROVIDER/@#/BUCKET/OBJECT` when the server pulls, and the object's name alone over WebSocket.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// What the user gave as arguments for this object; often JSON, empty if there are none.
    pub fn etl_args(&self) -> &str {
        &self.0.etl_args
    }

    /// The object as a file on this machine, for transforms that asked for
    /// [file names](crate::EtlServer::accepts_files). The call's body is empty then.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }
}
