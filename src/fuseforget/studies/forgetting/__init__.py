"""The study of forgetting: methods proved or disproved on the models of finished studies."""
