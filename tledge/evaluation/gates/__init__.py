"""What an artefact must keep: limits, and their verdicts against the evidence."""
