"""Where the sealed part of an output file ends: seals.py FILE

Prints "BYTES RECORDS MEMBERS": the length of the whole members at the start of the file, the records in them, and how
many of them hold records. Reads the format as docs/output.md describes it, and each member's text with zlib, which
checks its CRC; the worker's own code has no part in it.
"""

import struct
import sys
import zlib
from pathlib import Path

MAGIC = bytes.fromhex("1f8b08040000000004ff")


def sealed(data):
    at = records = members = 0
    while data[at : at + 10] == MAGIC and data[at + 12 : at + 14] == b"PR" and at + 104 <= len(data):
        (kind,) = struct.unpack_from("<B", data, at + 17)
        (member_bytes,) = struct.unpack_from("<Q", data, at + 24)
        (n_records,) = struct.unpack_from("<Q", data, at + 56)
        if at + member_bytes > len(data):
            break
        zlib.decompress(data[at : at + member_bytes], wbits=31)
        at, records, members = at + member_bytes, n_records, members + (kind == 1)
    return at, records, members


if __name__ == "__main__":
    path = Path(sys.argv[1])
    print(*sealed(path.read_bytes() if path.exists() else b""))
