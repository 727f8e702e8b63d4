"""Starts a command in a network that has nothing but itself, and asks it something.

Run as ``unshare --map-root-user --net python offline.py <port> <study> <command> ...``; prints the
answers as JSON.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        name = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(one, SIOCGIFFLAGS, name))[1]
        fcntl.ioctl(one, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def ask(url: str, method: str = "GET") -> object:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
        return json.load(answer)


def reachable() -> bool:
    """Whether anything outside can be reached from here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))  # sends nothing; fails where there is no route
        except OSError:
            return False
    return True


port, study, command = sys.argv[1], sys.argv[2], sys.argv[3:]
raise_loopback()
process = subprocess.Popen(command, start_new_session=True, stdout=sys.stderr)
try:
    began = time.monotonic()
    info: object = None
    while info is None and process.poll() is None and time.monotonic() < began + 120:
        with contextlib.suppress(OSError):
            info = ask(f"http://127.0.0.1:{port}/info/")
        time.sleep(0.3)
    words = ask(f"http://127.0.0.1:{port}/infer/aeflow?image={study}&output=json", "POST")
    print(json.dumps({"outside": reachable(), "info": info, "words": words}))
finally:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)
