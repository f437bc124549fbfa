import time
from bank.auth import guard, tokens
from bank.db import reader, db
from sqlalchemy import text
def b(f,n=2000):
    f(); 
    best=[]
    for k in range(5):
        s=time.thread_time()
        for _ in range(n//5): f()
        best.append((time.thread_time()-s)/(n//5)*1e6)
    return round(min(best))
def test_perf(app, alice):
    with app.test_request_context(headers={"Authorization":"Bearer "+alice.token}):
        c=tokens.verify("access")
        p={"login_id":c.login_id,"user_id":c.user_id}
        print("verify",b(lambda: tokens.verify("access")))
        print("identify",b(guard._identify))
        def q():
            with reader() as s: return s.execute(guard._WHO,p).scalar()
        print("query",b(q))
        sql="SELECT u.role FROM logins l JOIN users u ON u.id = l.user_id WHERE l.id = %(login_id)s AND l.user_id = %(user_id)s AND l.ended_at IS NULL AND u.status = 'active'"
        def r():
            raw=db.engine.raw_connection(); d=raw.driver_connection; d.autocommit=True
            try:
                cur=d.cursor()
                cur.execute(sql,p); return cur.fetchone()
            finally:
                d.autocommit=False
                raw.close()
        print("raw pooled",b(r))
        raw=db.engine.raw_connection(); cur=raw.cursor(); raw.driver_connection.autocommit=True
        def r():
            cur.execute(sql,p); return cur.fetchone()
        print("raw",b(r))
        def s1():
            with reader() as s: return s
        print("session only",b(s1))
        def s2():
            with reader() as s: s.connection()
        print("session+conn",b(s2))
        eng=db.engine.execution_options(isolation_level="AUTOCOMMIT")
        def s3():
            with eng.connect() as s: return s.execute(guard._WHO,p).scalar()
        print("conn fixed engine",b(s3))
        def s3():
            with eng.connect() as s: return s.exec_driver_sql(sql,p).scalar()
        print("conn driver sql",b(s3))
        def s5():
            with reader() as s: return s.connection().exec_driver_sql(sql,p).scalar()
        print("reader driver sql",b(s5))
    assert 0
