"""Objects in a mask, such as cells: found, counted, scored and written."""
