/* rounding.c: calls a Python function in some rounding state, and tells what it has left behind. */
#include <errno.h>
#include <fenv.h>
#include <xmmintrin.h>

typedef struct _object PyObject;
PyObject *PyObject_CallNoArgs(PyObject *function);

struct left {
    int error;
    unsigned control; /* of SSE, but for the flags of what has happened */
    int rounding; /* of x87 */
};

/* With a rounding mode of fenv.h, and bits that flush denormals. */
PyObject *call_in_state(PyObject *function, int rounding, unsigned flush, struct left *left)
{
    fenv_t before;
    fegetenv(&before);
    fesetround(rounding);
    _mm_setcsr(_mm_getcsr() | flush);
    errno = 77;
    PyObject *const result = PyObject_CallNoArgs(function);
    left->error = errno;
    left->control = _mm_getcsr() & 0xffc0;
    left->rounding = fegetround();
    fesetenv(&before);
    return result;
}
