"""Call a program without waiting for its imports: a server has done them, and runs each call in a fork of itself.

`python warm.py serve SOCKET MODULE IMPORT...` starts the server. MODULE has the program's `main`; IMPORTs are other
modules that calls would import. `python warm.py call SOCKET ARGUMENT...` calls the program.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress


def serve(address: str, module: str, *imports: str) -> None:
    """Answer calls, each in a fork of this process."""
    from importlib import import_module

    main = import_module(module).main
    for name in imports:
        import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        os.rename(f"{address}.new", address)  # who sees it can call
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                answer(connection, main)
            connection.close()
            forget_finished_forks()


def forget_finished_forks() -> None:
    """Take the exit codes of forks that have ended, which would stay as zombies."""
    with suppress(ChildProcessError):  # there is no fork
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(connection: socket.socket, main) -> None:
    """Run one call in the caller's folder, environment and streams, send its exit code, and end this process."""
    length, streams, *_ = socket.recv_fds(connection, 8, 3)
    folder, environment, arguments = json.loads(connection.makefile("rb").read(int.from_bytes(length)))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.argv[1:] = arguments
    code = 1
    try:
        code = main(arguments) or 0
    except SystemExit as ended:
        code = ended.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        connection.sendall(bytes([code]))
        os._exit(code)


def call(
    address: str, folder: str, environment: dict[str, str], arguments: list[str], streams: tuple = (0, 1, 2)
) -> int:
    """Run one call and return its exit code, 1 if it was killed."""
    message = json.dumps([folder, environment, arguments]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(message).to_bytes(8)], streams)
        connection.sendall(message)
        return (connection.recv(1) or b"\x01")[0]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        sys.exit(call(sys.argv[2], os.getcwd(), dict(os.environ), sys.argv[3:]))
