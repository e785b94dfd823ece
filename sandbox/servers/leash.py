"""Runs a command that dies with its parent. Started by process.py, never imported.

    python -I -S leash.py PARENT_PID USER COMMAND...

It is a program of its own, and not a `preexec_fn`, because Python code between fork and exec
deadlocks now and then in a process with threads. The order matters: a change of user clears
the death signal, so the user comes first; exec keeps both.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, user, *command = sys.argv[1:]
    if user:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if sys.platform == "linux":
        # SIGKILL, because a server that is stopped (SIGSTOP) sleeps through anything milder.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit("the parent ended first")
    os.execv(command[0], command)


main()
