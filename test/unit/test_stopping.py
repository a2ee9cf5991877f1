import os
import signal
import subprocess
import sys

CODE = """
import multiprocessing, time
from lesionclick.commands.stopping import stops_with_its_processes
with stops_with_its_processes():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_sigterm_ends_a_command_and_its_processes():
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True) as command:
        child = int(command.stdout.readline())
        command.send_signal(signal.SIGTERM)
        assert command.wait(30) == 128 + signal.SIGTERM
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        return
    os.kill(child, signal.SIGKILL)
    raise AssertionError(f"process {child} outlived the command")
