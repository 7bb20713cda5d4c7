"""Many clients at one time: arguments are the router's host, its port and how many.

All connect before the first one asks for /health; none closes its connection before the last one has asked. The last
line says what became of them.
"""

import json
import resource
import socket
import sys

HOST, PORT, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def told(connection):
    connection.settimeout(60)
    try:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        head = b""
        while len(head) < 12:
            more = connection.recv(256)
            if not more:
                return "closed"
            head += more
    except (BrokenPipeError, ConnectionResetError):
        return "closed"
    return {b"HTTP/1.1 200": "answered", b"HTTP/1.1 503": "refused"}[head[:12]]


connections = [socket.create_connection((HOST, PORT), timeout=60) for _ in range(COUNT)]
counts = {"open": len(connections), "answered": 0, "refused": 0, "closed": 0}
for connection in connections:
    counts[told(connection)] += 1
print(json.dumps(counts))
