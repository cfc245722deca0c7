"""Start a command in a fresh child again and again, and kill it at random moments.

    python kill.py SEED KILLS OUT WORDS...

`{out}` in WORDS is OUT/0; when a child comes to its end before it is killed, the next one starts
over in OUT/1 and so on. The children are forks of a process that has imported everything but has
not touched a device yet. Prints the number of folders and the number of kills.
"""

import os
import random
import signal
import sys
import time

import advjax.cli
import advjax.engine._stage
import advjax.report
import advjax.training

# results are handed out every few seconds; here there is nothing that takes so long
advjax.engine._stage.HARVEST = 0.02


def child(words: list[str], out: str) -> int:
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os._exit(advjax.cli.main([word.replace("{out}", out) for word in words]))
    return pid


def main() -> None:
    seed, kills, place, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    draw = random.Random(seed)
    # how long a child lives that nobody kills: also fills the cache of compiled programs
    for _ in range(2):
        start = time.monotonic()
        _, status = os.waitpid(child(words, os.path.join(place, f"whole{_}")), 0)
        whole = time.monotonic() - start
        assert status == 0, status
    done = killed = 0
    while killed < kills:
        pid = child(words, os.path.join(place, str(done)))
        time.sleep(draw.uniform(0.1, 0.9) * whole)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        else:
            assert status == 0, status
            done += 1
    _, status = os.waitpid(child(words, os.path.join(place, str(done))), 0)
    assert status == 0, status
    print(done + 1, killed)


main()
