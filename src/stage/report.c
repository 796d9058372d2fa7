/* results.json and report.html. */
#include "stage/report.h"

#include "base/file.h"
#include "base/str.h"
#include "hub/pretty.h"

enum status stage_report_write(struct stage_run *r) {
    char path[4096];
    if (par_rank() != 0) return TM_OK;
    TM_TRY(str_path(path, sizeof path, r->deck->run.dir, "results.json"));
    return hub_write_json(path, r->results, 2);
}
