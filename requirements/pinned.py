"""Print a lock, with hashes, of the pinned requirements on standard input, none of whose own requirements are looked at.

For the group `torch-users` of pyproject.toml: packages that ask for torch. Resolving those would pin a torch of the
resolver's choice (docs/decisions/0001-two-step-install.md). Each must be one wheel for all platforms.
"""

import json
import subprocess
import sys


def lock(requirements: list[str]) -> str:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    report = subprocess.run([*command, "--report", "-", *requirements], check=True, stdout=subprocess.PIPE)
    lines = ["# Written by `make lock`."]
    for item in json.loads(report.stdout)["install"]:
        download, metadata = item["download_info"], item["metadata"]
        if not download["url"].endswith("-py3-none-any.whl"):
            raise SystemExit(f"{metadata['name']}: found {download['url']}, expected a wheel for every platform")
        digest = download["archive_info"]["hashes"]["sha256"]
        lines += [f"{metadata['name']}=={metadata['version']} \\", f"    --hash=sha256:{digest}"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(lock(sys.stdin.read().split()))
