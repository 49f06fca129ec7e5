"""Numbers one can trust: intervals, thresholds, calibration, comparisons."""
