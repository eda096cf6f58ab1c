"""Measure a program on a trace: scores, feedback, results and plots."""
