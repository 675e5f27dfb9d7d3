"""Runs one program as another account and ends it when its parent ends. Executed by path, never imported.

    python -I -S child.py UID GID DEATH_SIGNAL PARENT_PID PROGRAM [ARGUMENT ...]

UID and GID are numbers, or -1 to leave them unchanged. On Linux the program gets DEATH_SIGNAL as soon as the *thread*
that started it ends, so start children in a thread that lives as long as the process: its main thread. Other systems
have no such signal; there, the next start on the same data folder ends a server that was left behind.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    uid, gid, death_signal, parent_pid = (int(number) for number in arguments[:4])
    if gid >= 0:
        os.setgroups([])
        os.setgid(gid)
    if uid >= 0:
        os.setuid(uid)
    if sys.platform == "linux":
        # This comes after setuid, which clears the setting.
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent_pid:
            sys.exit("the parent ended before its child began")
    os.execv(arguments[4], arguments[4:])


if __name__ == "__main__":
    main(sys.argv[1:])
