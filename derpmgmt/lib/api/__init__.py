"""What every room's part of the JSON API is made of: shapes of bodies, failures, pages of lists, waiting. Names no room."""

from derpmgmt.lib.api.failures import Failed, NotFound, NotSignedIn, failure_of
from derpmgmt.lib.api.paging import Listed, PageQuery, begin_of, cut, cut_page
from derpmgmt.lib.api.schemas import Answer, Failure, Input, Line, Moment, Output, Pk
from derpmgmt.lib.api.waiting import Wait, wait_for
