"""threads: work in several threads that take turns as often as Python lets them."""

import sys
import threading


def run(work, arguments, done=None):
    """Call work once in each thread, with one of the tuples of arguments; raise the first error.

    The event `done` is set as soon as one of them has ended, for those that go on until then.
    """
    errors = []

    def call(own):
        try:
            work(*own)
        except BaseException as error:
            errors.append(error)
        finally:
            if done is not None:
                done.set()

    threads = [threading.Thread(target=call, args=(own,)) for own in arguments]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
