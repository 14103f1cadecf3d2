"""The study of memorization (section 6 and appendix E of the paper)."""
