"""The commands of the page on memorization, which another process can run beside those of the other pages."""

from __future__ import annotations

import pytest

from test_docs import DEMO, check_page, run


@pytest.mark.docs
@pytest.mark.timeout(3600)
def test_what_the_page_shows_is_what_its_commands_print(tmp_path):
    run(DEMO, tmp_path)
    check_page("docs/memorization.md", tmp_path)
