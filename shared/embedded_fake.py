"""fakeredis' TCP server as a process: `python -m shared.embedded_fake PORT`. The last resort of embedded.py."""

import os
import signal
import sys

from fakeredis import TcpFakeServer


def main(port: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    TcpFakeServer(("127.0.0.1", port), server_type="redis").serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
