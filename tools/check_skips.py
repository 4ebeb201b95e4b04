"""Fail where a JUnit report of pytest holds a skip that was not foreseen.

    python tools/check_skips.py report.xml ['regular expression of an allowed reason' ...]

A continuous run must not become green by testing nothing: what may be skipped is named there.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET


def main() -> None:
    report, *allowed = sys.argv[1:]
    unforeseen = []
    for case in ET.parse(report).iter("testcase"):
        for skip in case.findall("skipped"):
            reason = skip.get("message", "") + (skip.text or "")
            if not any(re.search(pattern, reason) for pattern in allowed):
                unforeseen.append(f"{case.get('classname')}::{case.get('name')}: {reason.strip()}")
    if unforeseen:
        sys.exit("skipped without being allowed to:\n  " + "\n  ".join(unforeseen))
    print(f"{report}: no unforeseen skips")


if __name__ == "__main__":
    main()
