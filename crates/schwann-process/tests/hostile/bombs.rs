//! More than its share: processes, memory, disk, output, time.

use std::time::{Duration, Instant};

use schwann_process::{ByteSize, Program, ProgramSpec, Reason, Span, StartError};

use crate::{Done, Innocent, MIB, Place, number, places, start};

/// Runs it everywhere beside an innocent program, which must go on.
async fn bomb(script: &str, check: impl Fn(Place, &Done)) {
    for place in places().await {
        let innocent = Innocent::new(place).await;
        let done = start(place, script, |_| {}).await.finish().await;
        check(place, &done);
        innocent.goes_on().await;
    }
}

/// Held by the kernel for the whole tree, and not watched by us.
fn is_exact(place: Place) -> bool {
    place.cgroups
}

#[track_caller]
fn memory_held(place: Place, done: &Done) {
    let stopped = done.ending.reason == Reason::MemoryLimit
        || done.output.contains("MemoryError")
        || done.output.contains("Cannot allocate")
        || done.output.contains("held:");
    assert!(stopped, "{place:?}: {:?} {}", done.ending, done.output);
    if is_exact(place) {
        let most = 128 * MIB * 11 / 10;
        assert!(done.ending.max_rss <= most, "{place:?}: {:?}", done.ending);
    }
    assert!(!done.output.contains("OUT:"), "{place:?}: {}", done.output);
}

#[tokio::test]
async fn forks_as_often_as_it_can() {
    let script = "\
import time
count = 1
while count < 500:
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError:
        break
    count += 1
if count == 500:
    time.sleep(60)
print('processes', count, flush=True)";
    bomb(script, |place, done| {
        // Where nobody counts, the watch ends it before it can say how many.
        if done.ending.reason == Reason::ProcessLimit {
            return;
        }
        let count = number(&done.output, "processes");
        assert!((28..=35).contains(&count), "{place:?}: {count} of 32");
    })
    .await;
}

#[tokio::test]
async fn is_a_fork_bomb() {
    let script = "os.execvp('bash', ['bash', '-c', 'b() { b | b & b; }; b'])";
    for place in places().await {
        let innocent = Innocent::new(place).await;
        let run = start(place, script, |spec| spec.limits.wall = Span::from_secs(2)).await;
        let began = Instant::now();
        let done = run.finish().await;
        assert!(began.elapsed() < Duration::from_secs(8), "{place:?}: {:?}", done.ending);
        innocent.goes_on().await;
    }
}

#[tokio::test]
async fn makes_threads_without_end() {
    let script = "\
import threading, time
threading.stack_size(65536)
count = 1
try:
    while count < 500:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
if count == 500:
    time.sleep(60)
print('threads', count, flush=True)
os._exit(0)";
    bomb(script, |place, done| {
        // Where nobody counts, it may have all of them before the watch looks, but not for long.
        if done.ending.reason == Reason::ProcessLimit {
            return;
        }
        let count = number(&done.output, "threads");
        assert!((28..=35).contains(&count), "{place:?}: {count} of 32");
    })
    .await;
}

#[tokio::test]
async fn takes_memory_in_one_process() {
    let script = "\
taken = []
while len(taken) < 1024:
    taken.append(bytearray(os.urandom(4096) * 256))
print('OUT: took a gigabyte')";
    bomb(script, memory_held).await;
}

#[tokio::test]
async fn takes_memory_in_twenty_children() {
    let script = "\
import time
children = []
for n in range(20):
    pid = os.fork()
    if pid == 0:
        try:
            taken = [bytearray(os.urandom(4096) * 256) for n in range(50)]
            time.sleep(3)
            os._exit(7)
        except MemoryError:
            os._exit(1)
    children.append(pid)
whole = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7 for pid in children)
print('OUT: all of them' if whole * 50 > 160 else 'held: some')";
    bomb(script, memory_held).await;
}

#[tokio::test]
async fn takes_memory_in_files_that_have_no_name() {
    let script = "\
def fill():
    fd = call('memfd_create', b'x', 0)
    for n in range(1024):
        os.write(fd, bytes(1 << 20))
    return 'a gigabyte'
attempt('memfd', fill)";
    bomb(script, memory_held).await;
}

#[tokio::test]
async fn takes_memory_in_shared_maps() {
    let script = "\
import mmap
def fill():
    maps = []
    for n in range(64):
        shared = mmap.mmap(-1, 16 << 20)
        for page in range(0, len(shared), 4096):
            shared[page] = 1
        maps.append(shared)
    return 'a gigabyte'
attempt('shared', fill)";
    bomb(script, |place, done| {
        // Without a cgroup shared memory is nobody's; see docs/sandbox.md.
        if is_exact(place) {
            memory_held(place, done);
        }
    })
    .await;
}

#[tokio::test]
async fn locks_memory() {
    let script = "\
import mmap
def lock():
    page = mmap.mmap(-1, 8 << 20)
    if libc.mlockall(3):
        raise OSError(ctypes.get_errno(), 'mlockall')
attempt('mlockall', lock)";
    bomb(script, |place, done| {
        assert!(done.output.contains("held:"), "{place:?}: {}", done.output)
    })
    .await;
}

#[tokio::test]
async fn fills_the_disk() {
    let script = "\
total = 0
for folder in ['.', '/tmp', '/var/tmp', '/dev/shm', '/dev', '/run', '/var', '/', '/etc', '/proc']:
    try:
        for n in range(64):
            with open(f'{folder}/fill-{n}', 'wb') as file:
                for _ in range(8):
                    total += file.write(bytes(1 << 20)[:1 << 20])
                    file.flush()
                    os.fsync(file.fileno())
    except OSError as error:
        print('held:', folder, error, flush=True)
print('bytes', total, flush=True)";
    bomb(script, |place, done| {
        if matches!(done.ending.reason, Reason::FolderLimit | Reason::MemoryLimit) {
            return;
        }
        // The folder's 8 MiB, and the 16 MiB of shared memory.
        let total = number(&done.output, "bytes");
        assert!(total <= 24 * MIB * 11 / 10, "{place:?}: {total}");
    })
    .await;
}

#[tokio::test]
async fn writes_one_endless_file() {
    let script = "\
def fill():
    with open('big', 'wb') as file:
        while True:
            file.write(bytes(1 << 20))
attempt('fill', fill)
print('size', os.stat('big').st_size)";
    bomb(script, |place, done| {
        if done.ending.reason == Reason::FolderLimit {
            return;
        }
        assert!(number(&done.output, "size") <= 8 * MIB * 11 / 10, "{place:?}: {}", done.output);
    })
    .await;
}

#[tokio::test]
async fn makes_a_file_of_holes() {
    let script = "\
fd = os.open('sparse', os.O_RDWR | os.O_CREAT)
attempt('truncate', lambda: os.ftruncate(fd, 1 << 40))
attempt('seek', lambda: (os.lseek(fd, 1 << 40, 0), os.write(fd, b'x')))";
    bomb(script, |place, done| {
        assert!(!done.output.contains("OUT:"), "{place:?}: {}", done.output);
        assert!(done.output.contains("held:"), "{place:?}: {:?}", done.ending);
    })
    .await;
}

#[tokio::test]
async fn makes_300_000_files() {
    let script = "\
made = 0
try:
    for n in range(300):
        os.mkdir(str(n))
        for m in range(1000):
            os.close(os.open(f'{n}/{m}', os.O_CREAT | os.O_WRONLY))
            made += 1
except OSError as error:
    print('held:', error, flush=True)
print('made', made, flush=True)";
    bomb(script, |place, done| {
        // A disk may take longer for them than the run has.
        use Reason::{FolderLimit, MemoryLimit, Timeout};
        if matches!(done.ending.reason, FolderLimit | MemoryLimit | Timeout) {
            return;
        }
        assert!(number(&done.output, "made") < 250_000, "{place:?}: {}", done.output);
    })
    .await;
}

#[tokio::test]
async fn writes_without_end() {
    for stream in ["stdout", "stderr"] {
        let script = format!("while True: sys.{stream}.write('x' * 10000)");
        bomb(&script, |place, done| {
            assert_eq!(done.ending.reason, Reason::OutputLimit, "{place:?}");
            assert_eq!(done.output.len() as u64, MIB, "{place:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn opens_descriptors_without_end() {
    let script = "\
fds = []
try:
    while len(fds) < 10000:
        fds.append(os.open('/dev/null', os.O_RDONLY))
except OSError:
    pass
print('open', len(fds))";
    bomb(script, |place, done| {
        assert!(number(&done.output, "open") <= 64, "{place:?}: {}", done.output);
    })
    .await;
}

#[tokio::test]
async fn computes_without_end_in_every_process() {
    for processes in [1, 8] {
        let script = format!(
            "for n in range({processes} - 1):\n    if os.fork() == 0: break\nwhile True: pass"
        );
        for place in places().await {
            let innocent = Innocent::new(place).await;
            let limit = Span::from_secs(2);
            let run = start(place, &script, |spec| spec.limits.cpu = limit).await;
            let done = run.finish().await;
            assert_eq!(done.ending.reason, Reason::CpuLimit, "{place:?}: {:?}", done.ending);
            let cpu = done.ending.cpu;
            assert!(cpu >= Duration::from_millis(1800), "{place:?}: {cpu:?}");
            assert!(cpu <= Duration::from_millis(2400), "{place:?}: {cpu:?}");
            innocent.goes_on().await;
        }
    }
}

#[tokio::test]
async fn sleeps_for_ever() {
    for place in places().await {
        let script = "import time\nwhile True: time.sleep(60)";
        let run = start(place, script, |spec| spec.limits.wall = Span::from_millis(1000)).await;
        let done = run.finish().await;
        assert_eq!(done.ending.reason, Reason::Timeout, "{place:?}");
        let elapsed = done.ending.elapsed;
        assert!(elapsed >= Duration::from_millis(1000), "{place:?}: {elapsed:?}");
        assert!(elapsed < Duration::from_secs(3), "{place:?}: {elapsed:?}");
    }
}

#[tokio::test]
async fn starts_a_program_with_huge_arguments() {
    let script = "\
import subprocess
attempt('one', lambda: subprocess.run(['true', 'x' * (1 << 20)]))
attempt('many', lambda: subprocess.run(['true'] + ['x' * 100000] * 100))";
    bomb(script, |place, done| {
        assert!(!done.output.contains("OUT:"), "{place:?}: {}", done.output);
    })
    .await;
}

#[tokio::test]
async fn dumps_its_core() {
    let script = "\
pid = os.fork()
if pid == 0:
    os.abort()
status = os.waitpid(pid, 0)[1]
cores = [name for name in os.listdir('.') if 'core' in name]
print('OUT: core' if os.WCOREDUMP(status) or cores else 'held: no core')";
    bomb(script, |place, done| {
        assert!(done.output.contains("held:"), "{place:?}: {}", done.output)
    })
    .await;
}

#[tokio::test]
async fn fills_pipes_that_it_never_reads() {
    let script = "\
import fcntl
def fill():
    total = 0
    for n in range(10000):
        r, w = os.pipe()
        fcntl.fcntl(w, 1031, 1 << 20)
        os.set_blocking(w, False)
        total += os.write(w, bytes(1 << 20))
    return total
attempt('pipes', fill)";
    bomb(script, memory_held).await;
}

#[tokio::test]
async fn brings_more_than_its_folder_holds() {
    for place in places().await {
        let script = "print('OUT: it runs')";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("large"), vec![0; 12 << 20]).unwrap();
        let command = ["/usr/bin/python3", "-c", script];
        let mut spec = ProgramSpec::new(command, folder.path(), place.sandbox);
        spec.limits.folder = ByteSize::new(4 * MIB);
        match Program::start(spec).await {
            Ok(mut session) => {
                let ending = session.end().await;
                assert_eq!(ending.reason, Reason::StartFailed, "{place:?}: {ending:?}");
            }
            Err(error) => assert!(matches!(error, StartError::Folder { .. }), "{error:?}"),
        }
    }
}
