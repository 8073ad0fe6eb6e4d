"""The body of an HTTP/1.1 response that has no length: chunks."""

LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; not empty, which would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
