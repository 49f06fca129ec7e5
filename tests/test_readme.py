import pandas as pd

from w207lib import publishing, readme, report


def test_the_readme_gets_its_numbers_from_the_published_results(finished_run, home):
    publishing.publish(finished_run)
    path = home / "README.md"
    path.write_text("# Title\n<!-- results:tiny -->\nold\n<!-- end -->\nrest\n", encoding="utf-8")
    text = readme.fill()
    assert text == path.read_text(encoding="utf-8") and "old" not in text
    assert text.startswith("# Title\n<!-- results:tiny -->\n| model") and text.endswith("rest\n")
    scores = pd.read_csv(finished_run / report.METRICS).set_index("model").loc["dummy_prior"]
    shown = [f"{scores[split]:.3f}" for split in ("train", "validation", "test")]
    assert f"| dummy\\_prior | – | {' | '.join(shown)} (" in text
    assert "Report 1: 0.6 (test, cifake)" in text and "20 test images" in text
    assert readme.fill() == text
