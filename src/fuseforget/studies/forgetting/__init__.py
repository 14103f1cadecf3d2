"""Fusing made to forget: methods proved or disproved on the models of finished studies."""
