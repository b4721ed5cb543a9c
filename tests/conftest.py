"""conftest: fixtures and options that all tests share."""

import pytest

import cbn


def pytest_addoption(parser):
    parser.addoption("--no-skips", action="store_true", help="count a skipped test as a failed one")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and collector.config.getoption("--no-skips"):  # all of a file, by importorskip
        report.outcome, report.longrepr = "failed", str(report.longrepr)


@pytest.fixture(params=cbn.available_isas())
def isa(request):
    with cbn.use_isa(request.param):
        yield request.param
