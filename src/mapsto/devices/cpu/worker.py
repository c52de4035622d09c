"""A compile worker: `python -m mapsto.devices.cpu.worker N` reads jobs from stdin and answers on the inherited pipe N.

A pipe of their own keeps the answers apart from whatever Python's start-up or LLVM may print.

Frames are a length (4 bytes, big-endian) and that many bytes. The first two frames name the processor (cpu,
features); then each job is three frames (what to make: `object`, `assembly` or `text`; optimizer; LLVM text, for
`text` the pickled arguments of `functions.written`) and its answer two (`ok` or `error`; object code, assembly, LLVM
text or message).
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from typing import IO


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame; None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">I", head)
    body = stream.read(length)
    return body if len(body) == length else None


def write_frame(stream: IO[bytes], body: bytes) -> None:
    stream.write(struct.pack(">I", len(body)) + body)


def _written(body: bytes) -> bytes:
    """LLVM text of what the process that started this one pickled."""
    from mapsto.devices.cpu.functions import written  # what writes takes a while to import: few programs need it here

    return written(*pickle.loads(body)).encode()


def main() -> None:
    answers = os.fdopen(int(sys.argv[1]), "wb")
    jobs = sys.stdin.buffer
    from mapsto.devices.cpu import target

    cpu, features = read_frame(jobs), read_frame(jobs)
    if cpu is None or features is None:
        return
    machine = target.machine(cpu.decode(), features.decode())
    while True:
        kind, optimizer, text = read_frame(jobs), read_frame(jobs), read_frame(jobs)
        if kind is None or optimizer is None or text is None:
            return
        try:
            if kind == b"text":
                made = _written(text)
            elif kind == b"assembly":
                made = target.compile_assembly(text.decode(), machine, optimizer.decode()).encode()
            else:
                made = target.compile_object(text.decode(), machine, optimizer.decode())
            status = b"ok"
        except Exception as error:  # the message travels; the worker goes on with the next job
            status, made = b"error", str(error).encode()
        write_frame(answers, status)
        write_frame(answers, made)
        answers.flush()


if __name__ == "__main__":
    main()
