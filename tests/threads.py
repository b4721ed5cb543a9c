"""threads: work in several threads that take turns as often as Python lets them."""

import sys
import threading


def run(work, arguments):
    """Call work once in each thread, with one of the tuples of arguments."""
    threads = [threading.Thread(target=work, args=own) for own in arguments]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
