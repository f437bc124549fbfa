"""Asks for known holes in the packages that a file of requirements pins, and fails where there are any.

Where the advisories cannot be had it says so and fails nobody: a build must not depend on another's server. pip-audit alone will not
do: it ends in a traceback when it is offline, and it calls packages that it could not ask for free of holes.
"""

import json
import subprocess
import sys
import tempfile

NETWORK = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError", "HTTPError", "Could not connect", "ServiceError")


def verdict(code: int, out: str, err: str) -> tuple[bool, str]:
    """Whether the build may go on, and what to say, from what pip-audit answered."""
    try:
        found = json.loads(out)["dependencies"]
    except (ValueError, KeyError):
        if code == 1 and any(name in err for name in NETWORK):
            return True, f"NOT AUDITED: the advisories are out of reach ({(err.strip().splitlines() or [''])[-1][:120]})."
        return False, f"pip-audit failed:\n{err}"
    asked = [package for package in found if "skip_reason" not in package]
    holes = [
        f"{package['name']} {package['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version yet'}"
        for package in asked
        for hole in package["vulns"]
    ]
    if not asked:
        return True, f"NOT AUDITED: the index that answers has no advisories for any of the {len(found)} packages."
    said = f"{len(asked)} packages audited, {len(holes)} known holes."
    skipped = [package["name"] for package in found if "skip_reason" in package]
    if skipped:
        said += f" NOT AUDITED: {', '.join(skipped)}."
    return not holes, "\n".join([*holes, said])


def main(requirements: str) -> int:
    """Audit one file; the exit code."""
    with tempfile.TemporaryDirectory() as cache:
        # Everything is pinned, so pip need not work out what belongs together. The cache would need a HOME.
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off", "--timeout", "5"]
        command += ["--format", "json", "--cache-dir", cache, "--requirement", requirements]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        except subprocess.TimeoutExpired:
            print("NOT AUDITED: the advisories did not come within three minutes.")
            return 0
    good, said = verdict(done.returncode, done.stdout, done.stderr)
    print(said)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
