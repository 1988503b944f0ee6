"""Number formats and their scales: so far FP8 in DeepSeek-V3's 128x128 weight blocks."""
