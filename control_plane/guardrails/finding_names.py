"""Names of metrics that findings carry, beside those of engagement, operations and other systems."""

PSI = "psi"
JENSEN_SHANNON = "js"
WASSERSTEIN = "wasserstein"
KOLMOGOROV_SMIRNOV = "ks"
RANK_AGREEMENT = "rank_agreement"
MEAN_LOG_RATIO = "mean_log_ratio"
DRIFT = (PSI, JENSEN_SHANNON, WASSERSTEIN, KOLMOGOROV_SMIRNOV, RANK_AGREEMENT, MEAN_LOG_RATIO)

BRIER = "brier"
CALIBRATION_BY_SCORE = "calibration_by_score"
CALIBRATION_SHIFT = "calibration_shift"
CALIBRATION_ERROR = "calibration_error"  # of the candidate
STABLE_CALIBRATION_ERROR = "calibration_error_of_stable"
TOLD = (*DRIFT, BRIER, CALIBRATION_BY_SCORE, CALIBRATION_SHIFT, CALIBRATION_ERROR, STABLE_CALIBRATION_ERROR)
