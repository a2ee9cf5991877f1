"""What the platform sends to a server in a container; run there from standard input, with the standard library alone.

python - ready SECONDS    poll /health until it answers 200, print the seconds that took
python - invoke [TIMES]   POST /invoke, until one fails; print the status and the answer of the last
"""

import sys
import time
import urllib.error
import urllib.request

URL = "http://localhost:4743"
INTERVAL_S = 0.5  # between two questions for the health
LIMIT_S = 900.0  # the platform's, for a case
HEALTH_S = 10.0  # within which a server says how it is

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # engines hand the host's proxy to containers


def ask(method: str, path: str, limit_s: float) -> tuple[int, str]:
    """Send a request, and return status and body; status 0 and the reason where nobody answers."""
    try:
        with OPENER.open(urllib.request.Request(URL + path, method=method), timeout=limit_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def main(action: str, *arguments: str) -> int:
    """Do what the command line says."""
    if action == "invoke":
        for _ in range(int(arguments[0]) if arguments else 1):
            status, body = ask("POST", "/invoke", LIMIT_S)
            if status != 201:
                break
        sys.stdout.write(f"{status} {body}")
        return status != 201
    begin = time.monotonic()
    while time.monotonic() - begin < float(arguments[0]):
        status, body = ask("GET", "/health", HEALTH_S)
        if status == 200:
            sys.stdout.write(f"{time.monotonic() - begin:.1f}")
            return 0
        time.sleep(INTERVAL_S)
    sys.stdout.write(f"{status} {body}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
