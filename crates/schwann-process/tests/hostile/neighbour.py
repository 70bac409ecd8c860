# A daemon of the same host, and mostly of the same user, that trusts the others there: whatever has a name or a number is
# open to all. It says what it has, and takes it away when its input ends.
import ctypes, os, socket, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
os.umask(0)
folder = sys.argv[1]
name = b"/" + os.path.basename(folder).encode()
segment = libc.shmget(0, 4096, 0o1666)
semaphore = libc.semget(0, 1, 0o1666)
messages = libc.msgget(0, 0o1666)
ctypes.memmove(libc.shmat(segment, None, 0), b"secret", 7)
libc.msgsnd(messages, (ctypes.c_char * 24)(1), 8, 0)
# Flags, messages, bytes of each: small, because a user may have few bytes in all queues together.
queue = libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o666, (ctypes.c_long * 8)(0, 1, 64))
mailbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
mailbox.bind(folder + "/mailbox")
unnamed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
unnamed.bind("\0" + folder)
assert min(segment, semaphore, messages, queue) >= 0, (segment, semaphore, messages, queue)
print("ready", segment, semaphore, messages, flush=True)
sys.stdin.read()
libc.shmctl(segment, 0, None)
libc.semctl(semaphore, 0, 0)
libc.msgctl(messages, 0, None)
libc.mq_unlink(name)
for box in [mailbox, unnamed]:
    box.setblocking(False)
    try:
        print("got", box.recv(100), flush=True)
    except BlockingIOError:
        pass
print("done", flush=True)
