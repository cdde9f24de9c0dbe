"""Report how one factor of modality bias changes reliance."""
