"""Figures beside peers: one command each, JSON and a Markdown table out. Timings never gate a test."""
