"""A fork server: Snakemake's local jobs start from a warm process instead of importing torch, timm, OpenMMLab again.

`start` runs the server beside Snakemake. It imports the code of all stages once. The first job of a benchmark forks a
process that also imports this benchmark's libraries. Each job is a fork of such a process.

The command `rpg` of a job (`delegate`) sends its arguments, folder, own variables and standard files to the server,
waits, and ends as the job ends. It forwards the signals that it receives. If it is killed, the server kills the job. A
job that cannot start from the server runs in its own process, as without a server.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rpg.stages import STAGES
from rpg.utils.threads import thread_variables

# The environment variable with the path of the server's socket.
ADDRESS = "RPG_FORKSERVER"
# Modules that the stages share; the registry names the module of each stage.
SHARED = ("rpg.cli", "rpg.config.loading")
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCONT)
# Answers of the server: the job's wait status follows, or the job must run elsewhere.
ENDED, ELSEWHERE = b"e", b"x"
PR_SET_PDEATHSIG = 1


def start(kinds: Mapping[str, str], environment: Mapping[str, str]) -> int:
    """Start a server, and set ADDRESS in this process's environment.

    Returns a descriptor: the server ends after its last job when the descriptor is closed, at the latest with this
    process. `kinds` maps experiments to their `task.kind`. `environment` holds further variables of the server.
    """
    folder = tempfile.mkdtemp(prefix="rpg-")
    address = str(Path(folder, "socket"))
    # Bound here, so that a job that starts before the server waits for it instead of running without it.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    # Callers wait here during the imports.
    listener.listen(1024)
    lifeline, kept = os.pipe()
    # Not in this process's session: Ctrl-C in a terminal reaches the commands, which forward it.
    variables = [f"{name}={value}" for name, value in {**thread_variables(1), **environment}.items()]
    files = listener.fileno(), lifeline
    # `ps` shows the address.
    arguments = [address, *map(str, files), json.dumps(kinds)]
    subprocess.Popen(
        ["env", *variables, sys.executable, "-m", "rpg.pipeline.forkserver", *arguments],
        pass_fds=files,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(lifeline)
    listener.close()
    os.environ[ADDRESS] = address
    return kept


def delegate(address: str, arguments: Sequence[str]) -> int | None:
    """Run the command `arguments` in a fork of the server at `address`; return its exit code.

    Returns None if it must run in this process. If a signal ended the job, the same signal ends this process.
    """
    try:
        # The server's libraries have one thread.
        if arguments[arguments.index("--threads") + 1] != "1":
            return None
    except (ValueError, IndexError):
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        return None

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            connection.send(bytes([number]))

    def stop(*_: object) -> None:
        forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    # A command that was started to ignore a signal, as in the background of a shell, goes on to ignore it.
    heeded = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heeded}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, stop)
    message = {"arguments": arguments, "folder": os.getcwd(), "prefix": sys.prefix, "environment": _own_variables()}
    request = json.dumps(message).encode()
    answer = b""
    try:
        _write(connection, request, [0, 1, 2])
        while part := connection.recv(5 - len(answer)):
            answer += part
    except OSError:
        pass
    for number, handler in before.items():
        signal.signal(number, handler)
    if answer[:1] == ELSEWHERE:
        return None
    if len(answer) != 5:
        print("rpg: error: the fork server ended before the job; run the command again", file=sys.stderr)
        return 1
    (status,) = struct.unpack("!I", answer[1:])
    if os.WIFSIGNALED(status):
        ending = os.WTERMSIG(status)
        if ending != signal.SIGKILL:
            signal.signal(ending, signal.SIG_DFL)
        os.kill(os.getpid(), ending)
    return os.waitstatus_to_exitcode(status)


def _own_variables() -> dict[str, str]:
    """Return the variables of this project. All others are the server's, which Snakemake has started, too."""
    return {name: value for name, value in os.environ.items() if name.startswith("RPG_") and name != ADDRESS}


@dataclass(frozen=True)
class Request:
    """A command to run: the connection to its caller, the message, and the descriptors of the standard files."""

    connection: socket.socket
    message: bytes
    files: list[int]

    def close(self) -> None:
        """Close this process's descriptors."""
        self.connection.close()
        for file in self.files:
            os.close(file)


def receive(connection: socket.socket) -> Request | None:
    """Read a request from a caller; None if the caller has ended."""
    with contextlib.suppress(OSError):
        message, files = _read(connection, 3)
        if len(files) == 3 and message:
            return Request(connection, message, files)
    connection.close()
    return None


def _write(connection: socket.socket, message: bytes, files: list[int]) -> None:
    """Send a message with descriptors."""
    socket.send_fds(connection, [struct.pack("!I", len(message))], files)
    connection.sendall(message)


def _read(connection: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """Receive a message with at most `count` descriptors; the message is empty if the other end has closed."""
    header, files, _, _ = socket.recv_fds(connection, 4, count)
    return _exactly(connection, struct.unpack("!I", header)[0]) if len(header) == 4 else b"", files


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count and (part := connection.recv(count - len(parts))):
        parts += part
    return bytes(parts) if len(parts) == count else b""


@dataclass
class Server:
    """A warm process: it forks jobs, and a further warm process for each kind of task."""

    kinds: Mapping[str, str]
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    jobs: dict[int, socket.socket] = field(default_factory=dict)
    of_kind: dict[str, socket.socket] = field(default_factory=dict)
    # Modification times of the imported files of this project, as they were at the import.
    times: dict[str, int] = field(default_factory=dict)
    ending: bool = False

    def load(self) -> None:
        """Import the code of all stages."""
        for module in (*SHARED, *(stage.module for stage in STAGES.values())):
            importlib.import_module(module)
        self.keep()

    def load_kind(self, kind: str) -> None:
        """Import the libraries of a kind of task."""
        from rpg.tasks.registry import task_blocks

        # A job that finds a library broken says so itself.
        with contextlib.suppress(Exception):
            task_blocks()[kind].import_libraries()
        self.keep()

    def keep(self) -> None:
        """Share this process's objects with all forks, and note the times of all imported files of this project."""
        # Objects that every fork shares must not be written to by the garbage collector.
        gc.freeze()
        # A file that this process's parent imported may have changed since.
        self.times = _source_times() | self.times

    def watch(self, file: int | socket.socket, ready: Callable[[], None]) -> None:
        """Call `ready` whenever `file` can be read."""
        self.selector.register(file, selectors.EVENT_READ, ready)

    def run(self) -> None:
        """Serve until the lifeline ends and all jobs have ended."""
        while not self.ending or self.jobs:
            for key, _ in self.selector.select():
                key.data()

    def end(self, file: int | socket.socket) -> None:
        """Accept no more jobs, because `file`, the lifeline, has ended."""
        self.selector.unregister(file)
        self.ending = True

    def dispatch(self, request: Request) -> None:
        """Run a request in a fork of this process, or in one with the libraries of its experiment."""
        arguments = json.loads(request.message)["arguments"]
        kind = self.kinds.get(arguments[arguments.index("--experiment") + 1]) if "--experiment" in arguments else None
        if kind is None:
            self.fork_job(request)
            return
        if kind not in self.of_kind:
            self.fork_server(kind, request)
        rights = [request.connection.fileno(), *request.files]
        try:
            _write(self.of_kind[kind], request.message, rights)
        except OSError:
            # The process with the libraries has ended, as by the kernel's out-of-memory killer.
            del self.of_kind[kind]
            _send(request.connection, ELSEWHERE)
        request.close()

    def fork_server(self, kind: str, first: Request) -> None:
        """Fork a process that imports the libraries of a kind of task and runs the requests that it receives."""
        ours, theirs = socket.socketpair()
        if os.fork():
            theirs.close()
            self.of_kind[kind] = ours
            return
        _die_with_parent()
        ours.close()
        first.close()
        _close(self)
        server = Server({}, times=self.times)

        def receive_rights() -> None:
            message, files = _read(theirs, 4)
            if not message:
                server.end(theirs)
                return
            server.fork_job(Request(socket.socket(fileno=files[0]), message, files[1:]))

        server.load_kind(kind)
        server.watch(theirs, receive_rights)
        server.run()
        os._exit(0)

    def fork_job(self, request: Request) -> None:
        """Fork a process that runs a request; watch it and its caller."""
        # The code may have changed since its import, and Snakemake may have activated another environment for the job.
        if _source_times() != self.times or json.loads(request.message)["prefix"] != sys.prefix:
            _send(request.connection, ELSEWHERE)
            request.close()
            return
        job = os.fork()
        if not job:
            _close(self)
            _run(request)
        caller, handle = request.connection, os.pidfd_open(job)
        self.jobs[job] = caller
        for file in request.files:
            os.close(file)

        def told() -> None:
            number = b""
            with contextlib.suppress(OSError):
                number = caller.recv(1)
            if not number:
                self.selector.unregister(caller)
            with contextlib.suppress(ProcessLookupError):
                os.kill(job, number[0] if number else signal.SIGKILL)

        def ended() -> None:
            _, status = os.waitpid(job, 0)
            self.selector.unregister(handle)
            os.close(handle)
            with contextlib.suppress(KeyError):
                self.selector.unregister(caller)
            _send(caller, ENDED + struct.pack("!I", status))
            caller.close()
            del self.jobs[job]

        self.watch(caller, told)
        self.watch(handle, ended)


def _send(connection: socket.socket, answer: bytes) -> None:
    # A caller that was killed reads no answer.
    with contextlib.suppress(OSError):
        connection.sendall(answer)


def _source_times() -> dict[str, int]:
    """Return the modification times of the project's imported files."""
    root = str(Path(__file__).parents[1])
    files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    times = {}
    for file in sorted(filter(lambda file: file.startswith(root), files)):
        with contextlib.suppress(OSError):
            times[file] = os.stat(file).st_mtime_ns
    return times


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _close(server: Server) -> None:
    """Close a forked process's copies of the descriptors of its parent, `server`.

    They would hide that their other ends close.
    """
    for file in (*(key.fileobj for key in server.selector.get_map().values()), *server.of_kind.values()):
        if isinstance(file, int):
            os.close(file)
        elif isinstance(file, socket.socket):
            file.close()
    server.selector.close()


def _run(request: Request) -> NoReturn:
    """Become the command of a request."""
    code = 1
    try:
        _die_with_parent()
        told = json.loads(request.message)
        os.chdir(told["folder"])
        for name in (ADDRESS, *_own_variables()):
            os.environ.pop(name, None)
        for name, value in told["environment"].items():
            os.environ[name] = value
        for number, file in enumerate(request.files):
            os.dup2(file, number)
        request.close()
        from rpg.__main__ import run

        run(told["arguments"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def serve(listener: socket.socket, lifeline: int, kinds: Mapping[str, str]) -> None:
    """Serve at `listener` until the other end of `lifeline` closes; then remove the folder of the socket."""
    server = Server(kinds)
    # Jobs get only signals that their commands forward.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        server.load()

        def accept() -> None:
            if request := receive(listener.accept()[0]):
                server.dispatch(request)

        server.watch(listener, accept)
        server.watch(lifeline, lambda: server.end(lifeline))
        server.run()
    finally:
        shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]), json.loads(sys.argv[4]))
