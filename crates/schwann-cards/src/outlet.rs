//! What programs of cards may call, although their sandbox has no network: one socket, which leads to one handler and nowhere else.
//!
//! Each run that asks for it has a socket of its own, in a folder that its sandbox shows read-only beside clients for it that need
//! nothing installed. With the run the socket goes, and with it every call.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use schwann::{BoxHandler, Call, Error, Finished, Handler, Server, serve_connection};
use schwann_process::{ProgramSpec, Sandbox};
use tokio::{
    net::UnixListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tracing::{debug, warn};
use uuid::Uuid;

/// Where the folder is in a sandbox.
const INSIDE: &str = "/run/schwann";
/// The socket in it.
const SOCKET: &str = "socket";
/// The folder of programs in it.
const PROGRAMS: &str = "bin";
/// Connections of one run at a time. The next waits.
const AT_ONCE: usize = 8;
/// Largest body of a call.
const MAX_REQUEST: u64 = 16 << 20;
/// What the system takes as a socket's path, in bytes.
const LONGEST_PATH: usize = 107;

/// What programs may call. Cheap to clone.
#[derive(Clone)]
pub struct Outlet {
    name: &'static str,
    handler: BoxHandler,
    files: Arc<Vec<File>>,
}

#[derive(Clone)]
struct File {
    name: &'static str,
    text: &'static str,
    is_program: bool,
}

/// The run that calls, in the extensions of a call's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallingRun(pub Uuid);

impl Outlet {
    /// An outlet to `handler`, served as HTTP/1.1 on a socket whose path is in the variable `SCHWANN_NAME`. A card asks for it by
    /// its setting `name`, which is lower-case.
    pub fn new(name: &'static str, handler: impl Handler) -> Self {
        Self { name, handler: handler.boxed(), files: Arc::default() }
    }

    /// Adds a file beside the socket, where Python and Node find their modules; a program goes into `bin`, where a shell finds it.
    #[must_use]
    pub fn file(mut self, name: &'static str, text: &'static str, is_program: bool) -> Self {
        Arc::make_mut(&mut self.files).push(File { name, text, is_program });
        self
    }

    /// The setting by which a card asks for it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Opens it for one run, whose program is then told of it.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be made, or the sandbox cannot show it.
    pub(crate) async fn open(
        &self,
        folder: PathBuf,
        run: Uuid,
        spec: &mut ProgramSpec,
    ) -> io::Result<Opened> {
        // As a sandbox, and a program in another folder, need it.
        let folder = std::path::absolute(folder)?;
        let inside = match spec.sandbox {
            Sandbox::Bubblewrap => PathBuf::from(INSIDE),
            Sandbox::None => folder.clone(),
            other => return Err(io::Error::other(format!("sandbox `{other}` allows no sockets"))),
        };
        let socket = inside.join(SOCKET);
        if socket.as_os_str().len() > LONGEST_PATH {
            let text = format!("{} is too long for the path of a socket", socket.display());
            return Err(io::Error::other(text));
        }
        let (made, files) = (folder.clone(), Arc::clone(&self.files));
        let listener = tokio::task::spawn_blocking(move || fill(&made, &files));
        let listener = listener.await.map_err(io::Error::other)??;
        let listener = UnixListener::from_std(listener)?;
        let handler = Named { inner: self.handler.clone(), run: CallingRun(run) }.boxed();
        let serving = tokio::spawn(serve(listener, handler, run));
        self.tell(spec, &inside, &socket);
        if spec.sandbox == Sandbox::Bubblewrap {
            spec.shown.push((folder.clone(), inside));
        }
        Ok(Opened { folder, serving })
    }

    fn tell(&self, spec: &mut ProgramSpec, inside: &Path, socket: &Path) {
        let all: &mut BTreeMap<_, _> = &mut spec.environment;
        let name = format!("SCHWANN_{}", self.name.to_ascii_uppercase());
        all.insert(name, socket.display().to_string());
        for (name, usual) in
            [("PYTHONPATH", ""), ("NODE_PATH", ""), ("PATH", "/usr/local/bin:/usr/bin:/bin")]
        {
            let before = all.get(name).map_or(usual, String::as_str);
            let between = if before.is_empty() { "" } else { ":" };
            let folder = if name == "PATH" { inside.join(PROGRAMS) } else { inside.to_owned() };
            let value = format!("{}{between}{before}", folder.display());
            all.insert(name.to_owned(), value);
        }
    }
}

/// An outlet of one run. Dropping it ends all calls and removes it.
#[derive(Debug)]
pub(crate) struct Opened {
    folder: PathBuf,
    serving: JoinHandle<()>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.serving.abort();
        let folder = std::mem::take(&mut self.folder);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = fs::remove_dir_all(&folder) {
                warn!(path = %folder.display(), %error, "the folder of an outlet is left behind");
            }
        });
    }
}

/// Makes the folder with its files and its socket, for whatever user the program will be.
fn fill(folder: &Path, files: &[File]) -> io::Result<StdListener> {
    fs::DirBuilder::new().mode(0o755).create(folder)?;
    // Not beside the modules: Node takes a file of a module's own name before any other.
    let programs = folder.join(PROGRAMS);
    fs::DirBuilder::new().mode(0o755).create(&programs)?;
    // Whatever is taken away from new files here.
    for made in [folder, &programs] {
        fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
    }
    for file in files {
        let path = if file.is_program { &programs } else { folder }.join(file.name);
        fs::write(&path, file.text)?;
        let mode = if file.is_program { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    // By the folder's descriptor, since its own path may be too long for a socket's.
    let opened = fs::File::open(folder)?;
    let short = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
    let listener = StdListener::bind(short)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(folder.join(SOCKET), fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

async fn serve(listener: UnixListener, handler: BoxHandler, run: Uuid) {
    let server = Arc::new(Server { max_request_bytes: MAX_REQUEST, ..Server::default() });
    let room = Arc::new(Semaphore::new(AT_ONCE));
    // Ended with this future.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%run, %error, "a call of a card cannot be taken");
                // Until there are descriptors again.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (server, handler) = (Arc::clone(&server), handler.clone());
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = serve_connection(&server, stream, handler).await {
                debug!(%run, error, "a call of a card broke off");
            }
        });
    }
}

/// The handler, told whose call it is.
struct Named {
    inner: BoxHandler,
    run: CallingRun,
}

impl Handler for Named {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (mut head, body, reply) = call.into_parts();
        head.extensions.insert(self.run);
        self.inner.call(Call::from_parts(head, body, reply)).await
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("name", &self.name).finish_non_exhaustive()
    }
}
