"""Why an artefact answers differently from the model it was exported from: layers, input, output, calibration."""
